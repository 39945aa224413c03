"""Dividing a pod's time into classes: what the devices did while they were held.

The interval and the start are facts of the pod; what rank 0 says of its work (``Marks``) only
divides what is left between them. Every moment is clamped between the one before it and the end,
so that the classes sum to the interval whatever anybody claims.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.report import Marks, Step
from finetune_api.usage import TimeClass, TimeShare
from finetune_operator.cost.instants import instant_of


@dataclass(frozen=True, kw_only=True)
class Held:
    """How long a pod held its devices; milliseconds since the epoch."""

    step: Step
    since: int
    started: int | None
    """Unset where its process has not started, or nobody saw when."""
    until: int
    """The end; or now, for a pod that lives."""
    ended: bool


@dataclass(frozen=True)
class Span:
    """A stretch of one class; milliseconds since the epoch."""

    name: TimeClass
    start: int
    end: int
    saving: int = 0
    """Milliseconds within it that went into checkpoints; never more than it has."""


def timeline(
    held: Held, gang_starts: Sequence[int | None], marks: Marks | None, stall_after: int | None
) -> tuple[Span, ...]:
    """Order the classes of one pod's time. ``gang_starts`` are of all pods, its own included.

    pulling, until its own start; gangWait, until the last of the gang has started (unset: not
    yet); then, in training, init up to the first step and work up to the last one or the last
    save. What follows is the next step's work in a pod that lives, teardown in one that ended, and
    stalled if it is longer than ``stall_after`` milliseconds. The other steps are work throughout.
    Training without marks is unknown. A start that nobody saw came before the first step.
    """
    first_step = None
    if marks and marks.first_step_at and held.step is Step.TRAIN:
        first_step = instant_of(marks.first_step_at)
    assumed = held.until if first_step is None else first_step
    cursor = _Cursor(held.since, held.until)
    cursor.advance(TimeClass.PULLING, assumed if held.started is None else held.started)
    known = [start for start in gang_starts if start is not None]
    cursor.advance(
        TimeClass.GANG_WAIT,
        max(known) if len(known) == len(gang_starts) else assumed,
    )
    if held.step is not Step.TRAIN:
        cursor.advance(TimeClass.PRODUCTIVE, held.until)
    elif marks is None:
        cursor.advance(TimeClass.UNKNOWN, held.until)
    elif first_step is None:
        cursor.advance(TimeClass.INIT, held.until)
    else:
        cursor.advance(TimeClass.INIT, first_step)
        work_end = _work_end(marks, first_step)
        cursor.advance(TimeClass.PRODUCTIVE, work_end, marks.checkpoint_milliseconds)
        cursor.advance(_after_work(held, cursor.at, stall_after), held.until)
    return tuple(cursor.spans)


def shares(spans: Sequence[Span], start: int, end: int) -> tuple[TimeShare, ...]:
    """Sum the part of a timeline between two moments by class; classes without time are left out.

    Saving is spread evenly over the work that it interrupted, for only its total is known.
    """
    totals = dict.fromkeys(TimeClass, 0)
    for span in spans:
        low, high = max(span.start, start), min(span.end, end)
        if low < high:
            saved = _saved_until(span, high) - _saved_until(span, low)
            totals[TimeClass.CHECKPOINT] += saved
            totals[span.name] += high - low - saved
    return tuple(
        TimeShare(name=name, milliseconds=total) for name, total in totals.items() if total
    )


def _saved_until(span: Span, moment: int) -> int:
    return span.saving * (moment - span.start) // (span.end - span.start)


def _work_end(marks: Marks, first_step: int) -> int:
    told = (marks.last_step_at, marks.checkpoint_at, marks.working_at)
    return max((instant_of(moment) for moment in told if moment), default=first_step)


def _after_work(held: Held, work_end: int, stall_after: int | None) -> TimeClass:
    if stall_after is not None and held.until - work_end > stall_after:
        return TimeClass.STALLED
    return TimeClass.TEARDOWN if held.ended else TimeClass.PRODUCTIVE


class _Cursor:
    """Lays spans end to end; a moment in the past or after the end is moved to the nearest."""

    def __init__(self, since: int, until: int) -> None:
        self.at = since
        self.until = until
        self.spans: list[Span] = []

    def advance(self, name: TimeClass, moment: int, saving: int = 0) -> None:
        end = min(max(moment, self.at), self.until)
        self.spans.append(Span(name, self.at, end, min(saving, end - self.at)))
        self.at = end
