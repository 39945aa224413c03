"""What a pod's log says of its training: a line now and then, for who reads `kubectl logs`.

The launcher hands on what rank 0 says. Figures for machines stand in ``/progress`` and
``/metrics``; nothing reads these lines but people.
"""

import logging
import time
from collections.abc import Callable

from finetune_trainer.reporting.events import Evaluated, Event, Finished, Planned, Saved, Stepped
from finetune_trainer.reporting.progress import ProgressLog

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_STEPS = 10.0


class Narration:
    """Takes in rank 0's events, and writes what is worth a line.

    Parameters
    ----------
    progress
        Folds the events; paces come from there.
    clock
        Seconds that only grow.
    """

    def __init__(
        self, progress: ProgressLog, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._told_at: float | None = None

    def hear(self, event: Event) -> None:
        """Apply an event to the progress, and say it if it is due."""
        self._progress.apply(event)
        line = self._line(event)
        if line is not None:
            _log.info("%s", line)

    def _line(self, event: Event) -> str | None:
        match event:
            case Planned():
                return _beginning(event)
            case Stepped() if self._is_due():
                return self._step(event)
            case Evaluated():
                seconds = event.milliseconds / 1000
                return (
                    f"step {event.step}: loss on the select rows {event.select_loss:.4g}, "
                    f"scored in {seconds:.1f} s"
                )
            case Saved():
                return f"step {event.step}: checkpoint saved in {event.milliseconds / 1000:.1f} s"
            case Finished(result=result):
                early = " (early)" if result.stopped_early else ""
                return (
                    f"training ended at step {result.steps}{early}: best loss on the select rows "
                    f"{result.best_select_loss:.4g}, at step {result.best_step}"
                )
            case _:
                return None

    def _is_due(self) -> bool:
        now = self._clock()
        if self._told_at is not None and now - self._told_at < _SECONDS_BETWEEN_STEPS:
            return False
        self._told_at = now
        return True

    def _step(self, event: Stepped) -> str:
        now = self._progress.snapshot()
        pace = (
            f", {now.seconds_per_step:.3g} s per step, {now.tokens_per_second:,.0f} tokens/s"
            if now.seconds_per_step is not None and now.tokens_per_second is not None
            else ""
        )
        return (
            f"step {event.step} of {now.total_steps}: loss {event.loss:.4g}, "
            f"rate {event.learning_rate:.3g}{pace}"
        )


def _beginning(event: Planned) -> str:
    if event.resumed_from_attempt is None:
        return f"training begins, {event.total_steps} steps"
    return (
        f"training goes on from step {event.step} of {event.total_steps}, saved by "
        f"attempt {event.resumed_from_attempt}"
    )
