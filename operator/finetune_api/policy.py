"""What a job may use, and what happens when things go wrong: `budget` and `policy`."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.markers import Contract, Currency, Decimal


class Budget(Contract):
    """The most that this job may use. Reached, it saves, stops and waits as Suspended."""

    max_cost: Annotated[
        Decimal | None, Field(description="Money, in the currency below, over all attempts.")
    ] = None
    currency: Annotated[Currency, Field(description="ISO 4217; the rate card must agree.")] = "USD"
    max_gpu_hours: Annotated[
        Decimal | None,
        Field(description="Accelerator hours over all attempts (ranks, where the CPU trains)."),
    ] = None


class BaselinePasses(StrEnum):
    """What follows where a conventional baseline already meets the gate."""

    STOP = "Stop"
    CONTINUE = "Continue"


class Policy(Contract):
    """What happens when things go wrong, and once the job is over."""

    backoff_limit: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="Failures of the job's own making that are retried. Preemption, lost "
            "nodes and suspension are not counted.",
        ),
    ] = 3
    on_baseline_passes: Annotated[
        BaselinePasses,
        Field(
            description="Where a conventional baseline meets every requirement of evaluation.gate "
            "on the select rows, which the prepare step knows. Continue: the condition "
            "BaselinePasses warns, with the figures. Stop: the job is suspended too, and no GPU is "
            "held. A requirement on errorReduction, on groups or on swaps is never met so."
        ),
    ] = BaselinePasses.CONTINUE
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=31_536_000,
            description="The most seconds of running, all attempts together; then it saves and "
            "fails.",
        ),
    ] = None
    stall_timeout_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86_400,
            description="A gang that gets no further for so long is restarted: no step, and "
            "between steps nothing saved and no rows scored. In a step, and in a save that does "
            "not get on, ranks wait for each other half as long.",
        ),
    ] = 1800
    grace_period_seconds: Annotated[
        int, Field(ge=5, le=3600, description="Time to save after a request to stop.")
    ] = 120
    start_timeout_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86_400,
            description="A gang whose pods don't all run after so long gives its devices back and "
            "is tried again. In a local run pods start at once.",
        ),
    ] = 900
    node_lost_timeout_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86_400,
            description="A pod whose node has been silent for so long is counted as gone, and the "
            "gang starts anew. A local run has no nodes.",
        ),
    ] = 300
    ttl_seconds_after_finished: Annotated[
        int | None,
        Field(
            ge=0,
            le=315_360_000,
            description="The job is deleted so many seconds after it was over (Complete or Failed; "
            "one that is Suspended is not): 0 at once, left out never. It may be set, changed and "
            "taken away later, too. With the job go its pods and their logs, its report and, with "
            "storage.whenDeleted Delete, the claim that was made for it: the model, the rows and "
            "each row's predictions. Its usage records stay, and a claim that is retained or that "
            "you name. If that would destroy a trained model that was to go to output.uri and did "
            "not, the job stays. What applies manifests over and over (Argo CD, Flux) would start "
            "the job anew. A local run deletes nothing.",
        ),
    ] = None

    @property
    def collective_seconds(self) -> int:
        """How long ranks wait for each other in a step.

        Half the stall timeout, so that the rank that others wait for is named before the gang ends
        for having made no step.
        """
        return self.stall_timeout_seconds // 2
