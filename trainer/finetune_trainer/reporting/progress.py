"""How far training is: events of rank 0, folded into what ``/progress`` and ``/metrics`` say.

Lives in the launcher of each pod; ``server`` reads it from another thread.
"""

import statistics
import threading
from collections import deque
from dataclasses import dataclass

from finetune_api.report import Marks, Progress, TrainResult
from finetune_trainer.reporting.curve import Curve
from finetune_trainer.reporting.events import (
    Evaluated,
    Event,
    Failed,
    Finished,
    Planned,
    Saved,
    Staged,
    Stepped,
    Warned,
    Working,
)

_RECENT_STEPS = 50
_MOST_WARNINGS = 8


@dataclass(frozen=True)
class _StepTime:
    seconds: float
    rows: int
    tokens: int


class ProgressLog:
    """The newest progress of one attempt. Safe to read while another thread applies events."""

    def __init__(self, *, pod_uid: str, attempt: int, started_at: str) -> None:
        self._lock = threading.Lock()
        self._progress = Progress(
            pod_uid=pod_uid,
            attempt=attempt,
            step=0,
            total_steps=0,
            stage="starting",
            marks=Marks(started_at=started_at),
        )
        self._curve = Curve()
        self._recent: deque[_StepTime] = deque(maxlen=_RECENT_STEPS)
        self._result: TrainResult | None = None
        self._evaluations = 0
        self._checkpoints = 0

    def snapshot(self) -> Progress:
        """The progress as it stands, with its curve."""
        with self._lock:
            return self._progress.model_copy(update={"curve": self._curve.points()})

    @property
    def marks(self) -> Marks:
        """The moments that divide metered time."""
        with self._lock:
            return self._progress.marks

    @property
    def began(self) -> bool:
        """Whether the first step has begun."""
        return self.marks.first_step_at is not None

    @property
    def result(self) -> TrainResult | None:
        """What training ended with, once it did."""
        with self._lock:
            return self._result

    def apply(self, event: Event) -> None:
        """Take in what rank 0 said."""
        with self._lock:
            match event:
                case Staged():
                    self._set(stage=event.stage)
                case Planned():
                    self._plan(event)
                case Stepped():
                    self._step(event)
                case Evaluated():
                    self._evaluate(event)
                case Saved():
                    self._save(event)
                case Working():
                    self._mark(working_at=event.at)
                case Warned():
                    self._set(warnings=(*self._progress.warnings, event.message)[:_MOST_WARNINGS])
                case Finished():
                    self._result = event.result
                case Failed():
                    pass

    def _plan(self, event: Planned) -> None:
        self._curve = Curve.of(event.curve, stride=event.curve_stride)
        self._set(
            step=event.step,
            total_steps=event.total_steps,
            remaining_checkpoints=event.remaining_checkpoints,
            remaining_evaluations=event.remaining_evaluations,
        )
        resumed = event.resumed_from_attempt is not None
        self._mark(
            first_step_at=event.at,
            last_step=event.step,
            resumed_from_step=event.step if resumed else 0,
            resumed_from_attempt=event.resumed_from_attempt,
            checkpoint_step=event.step if resumed else None,
        )

    def _step(self, event: Stepped) -> None:
        self._curve.add_loss(event.step, event.loss)
        self._recent.append(_StepTime(event.seconds, event.rows, event.tokens))
        seconds = max(sum(recent.seconds for recent in self._recent), 1e-9)
        tokens = sum(recent.tokens for recent in self._recent)
        self._set(
            step=event.step,
            loss=event.loss,
            learning_rate=event.learning_rate,
            rows_per_second=sum(recent.rows for recent in self._recent) / seconds,
            # Images have none.
            tokens_per_second=tokens / seconds if tokens else None,
            seconds_per_step=statistics.median(recent.seconds for recent in self._recent),
            remaining_checkpoints=event.remaining_checkpoints,
            remaining_evaluations=event.remaining_evaluations,
        )
        self._mark(last_step=event.step, last_step_at=event.at)

    def _evaluate(self, event: Evaluated) -> None:
        self._curve.add_score(event.step, event.select_loss)
        self._evaluations += 1
        spent = self._progress.marks.evaluation_milliseconds + event.milliseconds
        self._mark(evaluation_milliseconds=spent)
        self._set(seconds_per_evaluation=spent / 1000 / self._evaluations)

    def _save(self, event: Saved) -> None:
        self._checkpoints += 1
        spent = self._progress.marks.checkpoint_milliseconds + event.milliseconds
        self._mark(
            checkpoint_milliseconds=spent, checkpoint_step=event.step, checkpoint_at=event.at
        )
        self._set(seconds_per_checkpoint=spent / 1000 / self._checkpoints)

    def _set(self, **fields: object) -> None:
        self._progress = self._progress.model_copy(update=fields)

    def _mark(self, **fields: object) -> None:
        self._set(marks=self._progress.marks.model_copy(update=fields))
