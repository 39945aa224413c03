"""What the trainer tells the operator: progress, and the end of a pod.

The reports of prepare and evaluate have files of their own: ``datareport``, ``evaluationreport``.

Nothing in here moves money: that is counted from what the API server (or the local engine) says
about the pod itself.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.markers import Contract, Digest, Label, ShortText, Text, Timestamp

TERMINATION_LIMIT_BYTES = 4096
"""The kubelet keeps only the tail of a longer message, and JSON would lose its head."""

# A pod runs other people's code, and what it tells stands in a status. The bounds are beyond
# anything that is meant, and within what JSON readers and an API server can keep.
Steps = Annotated[int, Field(ge=0, le=10_000_000_000)]
"""Optimizer steps."""
Milliseconds = Annotated[int, Field(ge=0, le=10 * 365 * 86_400_000)]
"""A time of at most ten years."""
AttemptNumber = Annotated[int, Field(ge=1, le=2_147_483_647)]
Rank = Annotated[int, Field(ge=0, le=2_147_483_647)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000_000_000)]
"""Rows, tokens or weights."""
Size = Annotated[int, Field(ge=1, le=1_000_000_000_000_000)]
"""A count of what there is at least one of."""

PASSAGE_CHARACTERS = 600
Passage = Annotated[str, StringConstraints(max_length=PASSAGE_CHARACTERS)]
"""A piece of a row or of an answer to one."""


class ExitCode(IntEnum):
    """How a trainer process ends. Others are the kernel's (128 + signal)."""

    DONE = 0
    USAGE = 64
    DATA = 65
    INTERNAL = 70
    DEVICE_OUT_OF_MEMORY = 71
    STORAGE = 74
    STOPPED = 75


EXIT_MEANING: dict[ExitCode, str] = {
    ExitCode.DONE: "Done.",
    ExitCode.USAGE: "The run or the environment is not usable: the manifest must be mended.",
    ExitCode.DATA: "The data are not usable: the message names file, row and fix.",
    ExitCode.INTERNAL: "A fault of the trainer itself.",
    ExitCode.DEVICE_OUT_OF_MEMORY: "The accelerator's memory did not suffice.",
    ExitCode.STORAGE: "A volume or an object store could not be read or written.",
    ExitCode.STOPPED: "Stopped on request, with a complete checkpoint.",
}


class Step(StrEnum):
    """The three steps of a job, each with attempts of its own kind."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"


class FailureClass(StrEnum):
    """Why an attempt failed; decides what happens next."""

    USER_ERROR = "UserError"
    DATA_ERROR = "DataError"
    HOST_OOM = "HostOOM"
    DEVICE_OOM = "DeviceOOM"
    COLLECTIVE_HANG = "CollectiveHang"
    STORAGE = "Storage"
    NODE_FAULT = "NodeFault"
    PREEMPTED = "Preempted"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL = "ImagePull"
    STALLED = "Stalled"
    REPORT_MISSED = "ReportMissed"
    UNKNOWN = "Unknown"


FAILURE_MEANING: dict[FailureClass, str] = {
    FailureClass.USER_ERROR: "The manifest or the model is wrong.",
    FailureClass.DATA_ERROR: "The rows are missing, malformed or unfit for the task.",
    FailureClass.HOST_OOM: "A pod was killed for the memory that it took.",
    FailureClass.DEVICE_OOM: "An accelerator's memory did not suffice.",
    FailureClass.COLLECTIVE_HANG: "A rank waited in vain for another one.",
    FailureClass.STORAGE: "A volume or an object store could not be read or written.",
    FailureClass.NODE_FAULT: "A node was lost, or lacks what it promised, such as a GPU.",
    FailureClass.PREEMPTED: "A pod was disrupted: preempted, evicted or drained.",
    FailureClass.UNSCHEDULABLE: "Not all pods ran within policy.startTimeoutSeconds.",
    FailureClass.IMAGE_PULL: "The trainer's image could not be pulled.",
    FailureClass.STALLED: "It got no further for policy.stallTimeoutSeconds.",
    FailureClass.REPORT_MISSED: "The step was done, but its report was not received.",
    FailureClass.UNKNOWN: "None of these; the message has what is known.",
}


class CurvePoint(Contract):
    """A point of the loss curve; ``select_loss`` where the select rows were scored."""

    step: Steps
    """Optimizer step."""
    loss: float | None = None
    """Training loss."""
    select_loss: float | None = None
    """Loss on the select rows."""


class Marks(Contract):
    """Moments of one attempt as its rank 0 saw them. They divide metered time into classes."""

    started_at: Timestamp | None = None
    """When the process began."""
    first_step_at: Timestamp | None = None
    """When the first step was done."""
    last_step_at: Timestamp | None = None
    """When the newest step was done."""
    resumed_from_step: Steps = 0
    """The step of the checkpoint that it began from; 0 is none."""
    resumed_from_attempt: Annotated[
        AttemptNumber | None,
        Field(description="The attempt that wrote the checkpoint resumed from."),
    ] = None
    last_step: Steps = 0
    """The newest step done."""
    checkpoint_step: Annotated[
        Steps | None, Field(description="Step of the newest complete checkpoint.")
    ] = None
    checkpoint_at: Timestamp | None = None
    """When the newest complete checkpoint was written."""
    working_at: Annotated[
        Timestamp | None,
        Field(
            description="When it last got on with a save, or with scoring the select rows, where "
            "that takes long."
        ),
    ] = None
    checkpoint_milliseconds: Annotated[
        Milliseconds, Field(description="Time spent saving, all checkpoints of this attempt.")
    ] = 0
    evaluation_milliseconds: Annotated[
        Milliseconds, Field(description="Time spent scoring the select rows.")
    ] = 0


class Progress(Contract):
    """The reply of rank 0 at ``/progress``. Bounded, and named by pod, for addresses are reused."""

    version: Literal[1] = 1
    pod_uid: ShortText
    attempt: AttemptNumber
    step: Steps
    total_steps: Steps
    loss: float | None = None
    learning_rate: float | None = None
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    seconds_per_step: Annotated[
        float | None, Field(description="Median of recent steps, without saving and evaluation.")
    ] = None
    seconds_per_checkpoint: float | None = None
    seconds_per_evaluation: float | None = None
    remaining_checkpoints: Steps = 0
    remaining_evaluations: Steps = 0
    stage: Annotated[
        Label, Field(description="What the process is doing: loading, training, saving, …")
    ] = "loading"
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=60)] = ()
    warnings: Annotated[
        tuple[Text, ...], Field(max_length=8, description="Signs of a training that goes wrong.")
    ] = ()
    marks: Marks = Marks()


class Failure(Contract):
    """The first rank that failed, and why."""

    failure_class: FailureClass
    message: Text
    rank: Rank | None = None
    by_peer: Annotated[bool, Field(description="It only noticed the death of another rank.")] = (
        False
    )
    traceback: Annotated[str, Field(max_length=2400, description="The last lines, for people.")] = (
        ""
    )


class ReportRef(Contract):
    """Where a full report lies in the workspace, and its digest."""

    path: ShortText
    digest: Digest


class Overfitting(Contract):
    """How select and training loss parted, at the evaluation at which the rule held first.

    Each training loss is the mean of the steps since the evaluation before.
    """

    step: Steps
    select_loss: float
    train_loss: float
    best_step: Steps
    best_select_loss: float
    train_loss_at_best: float


class TrainResult(Contract):
    """What training ended with."""

    steps: Steps
    best_step: Steps
    best_select_loss: float
    final_loss: Annotated[
        float | None,
        Field(description="Mean training loss of the last steps."),
    ] = None
    stopped_early: Annotated[
        bool,
        Field(
            description="It did not get better for as long as earlyStopping allows, or overfitted."
        ),
    ] = False
    overfitting: Annotated[
        Overfitting | None, Field(description="Unset where training.health ignores it.")
    ] = None
    checkpoint: Annotated[ShortText, Field(description="The best checkpoint, in the workspace.")]
    packed_fill: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="Share of the packed sequences that rows fill; unset where they were not "
            "packed.",
        ),
    ] = None


class Termination(Contract):
    """The message a pod leaves behind, at most 4 KiB of JSON."""

    version: Literal[1] = 1
    step: Step
    attempt: AttemptNumber
    worker: Rank
    exit_code: Annotated[int, Field(ge=0, le=255)]
    failure: Failure | None = None
    marks: Marks = Marks()
    train: TrainResult | None = None
    report: Annotated[
        ReportRef | None, Field(description="prepare: the PrepareReport; evaluate: the Evaluation.")
    ] = None
