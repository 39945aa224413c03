"""Settling lost work: which share of an ended attempt's work was kept, once that is known.

An attempt's work is kept up to the checkpoint from which a later one resumed; all of it when it
completed; and up to its newest checkpoint when the job is over without another attempt.
"""

from collections.abc import Sequence
from fractions import Fraction

from finetune_api.phases import TERMINAL
from finetune_api.report import Marks, Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_operator.core.classify import COMPLETED
from finetune_operator.cost import records


def kept_share(attempt: AttemptStatus, status: JobStatus) -> Fraction | None:
    """The share of an ended attempt's work that was kept, or None while that is still open."""
    if attempt.state != "Ended":
        return None
    if attempt.reason == COMPLETED:
        return Fraction(1)
    if attempt.step is not Step.TRAIN:
        return Fraction(0)
    marks = attempt.marks or Marks()
    resumed_from = _resumed_from(attempt, status.attempts)
    if resumed_from is None and status.phase in TERMINAL:
        resumed_from = marks.checkpoint_step or 0
    return None if resumed_from is None else records.kept_share(marks, resumed_from)


def _resumed_from(attempt: AttemptStatus, attempts: Sequence[AttemptStatus]) -> int | None:
    """The step at which the next training attempt that got so far went on."""
    for later in attempts:
        chosen = later.marks is not None and later.marks.first_step_at is not None
        if later.number > attempt.number and later.step is Step.TRAIN and chosen:
            return later.marks.resumed_from_step if later.marks else None
    return None
