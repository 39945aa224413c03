"""What policies are asked about: one look, with what has just ended already taken in."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from finetune_api.phases import ConditionType
from finetune_api.report import Marks, Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_api.usage import UsageRecord
from finetune_operator.core.conditions import find
from finetune_operator.core.observed import Observed
from finetune_operator.cost.ledger import Totals
from finetune_operator.cost.pods import PodView

CONDITION_OF_STEP: dict[Step, ConditionType] = {
    Step.PREPARE: ConditionType.PREPARED,
    Step.TRAIN: ConditionType.TRAINED,
    Step.EVALUATE: ConditionType.EVALUATION_PASSED,
}
"""The condition that is set once a step is done (EvaluationPassed: either way)."""


class Verdict(StrEnum):
    """What a finding asks for."""

    REST = "Rest"
    """The job is over: seal and forget, nothing else."""
    FAIL = "Fail"
    """Stop what runs, with the work saved; then the job has failed."""
    COMPLETE = "Complete"
    """Everything is done."""
    SUSPEND = "Suspend"
    """Stop what runs, with the work saved; then wait."""
    HOLD = "Hold"
    """Start nothing new; what runs goes on."""
    END_ATTEMPT = "EndAttempt"
    """Stop this attempt; the next one takes over."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a policy found. The first finding decides."""

    verdict: Verdict
    reason: str
    message: str
    until: datetime | None = None
    """HOLD: when it ends by itself. REST: when the job is deleted."""
    admitted: bool = True
    """HOLD: False where the job is not even admitted."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One look at one job, bucketed."""

    observed: Observed
    now: datetime
    status: JobStatus
    records: tuple[UsageRecord, ...]
    """Metered up to now, in memory; what is written is decided elsewhere."""
    totals: Totals

    @property
    def attempt(self) -> AttemptStatus | None:
        """The newest attempt that stands in status."""
        return self.status.attempts[-1] if self.status.attempts else None

    @property
    def running(self) -> AttemptStatus | None:
        """The newest attempt, if it has not ended."""
        attempt = self.attempt
        return attempt if attempt is not None and attempt.state != "Ended" else None

    def pods_of(self, number: int) -> tuple[PodView, ...]:
        """An attempt's pods."""
        return tuple(pod for pod in self.observed.pods if pod.attempt == number)

    @property
    def live_pods(self) -> tuple[PodView, ...]:
        """Released pods that may still hold devices, of whichever attempt."""
        return tuple(pod for pod in self.observed.pods if pod.live and pod.released)

    def completed(self, step: Step) -> bool:
        """Whether a step is done."""
        return find(self.status.conditions, CONDITION_OF_STEP[step]) is not None


Policy = Callable[[Situation], Finding | None]


def marks_of(observed: Observed, attempt: AttemptStatus) -> Marks | None:
    """The best that is known of an attempt's marks: its end, its progress, what was noted."""
    pods = [pod for pod in observed.pods if pod.attempt == attempt.number]
    for pod in sorted(pods, key=lambda pod: pod.worker):
        if pod.termination is not None and pod.termination.marks != Marks():
            return pod.termination.marks
    progress = observed.progress
    uids = {pod.uid for pod in pods}
    if progress is not None and progress.attempt == attempt.number and progress.pod_uid in uids:
        return progress.marks
    return attempt.marks
