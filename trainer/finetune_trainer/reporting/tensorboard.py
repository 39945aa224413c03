"""A training's curves as TensorBoard reads them, in the job's workspace.

Rank 0 writes what it also tells its launcher (which loads no torch, as the library does). Every
attempt writes a file of its own into one
folder, and tells from which step on it takes the place of what earlier ones wrote.

The library's own writer hands events to a thread over a bounded queue, and waits for ever once that
thread has met a full disk; so they are written here, by its part below that. No curve is worth a
training: a storage that fails is told once, and nothing more is written.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event as Written
from tensorboardX.proto.event_pb2 import SessionLog
from tensorboardX.summary import scalar

from finetune_trainer.reporting.events import Evaluated, Event, Planned, Staged, Stepped

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_FLUSHES = 10.0


class TensorBoardFiles:
    """Writes scalars by step.

    Parameters
    ----------
    folder
        Where the files go; it is made.
    attempt
        The attempt whose training it is: two may begin in one second.
    clock
        Seconds since the epoch.
    """

    def __init__(
        self, folder: Path, *, attempt: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._attempt = attempt
        self._clock = clock
        self._writer: EventsWriter | None = None
        self._failed = False
        self._flushed_at = 0.0

    def hear(self, event: Event) -> None:
        """Take in an event of rank 0."""
        if self._failed:
            return
        try:
            self._hear(event)
        except OSError as error:
            self._failed = True
            _log.warning(
                "no more is written for TensorBoard: %s: %s", error.filename or self._folder, error
            )

    def _hear(self, event: Event) -> None:
        match event:
            case Planned():
                self._begin(event.step)
            case Stepped():
                scalars = {
                    "train/loss": event.loss,
                    "train/learning_rate": event.learning_rate,
                    "train/tokens_per_second": event.tokens / max(event.seconds, 1e-9),
                }
                if event.gradient_norm is not None:
                    scalars["train/gradient_norm"] = event.gradient_norm
                self._write(event.step, scalars)
            case Evaluated():
                self._write(event.step, {"select/loss": event.select_loss})
            case Staged():
                self._flush()
            case _:
                pass

    def _begin(self, step: int) -> None:
        """Open the attempt's file; points of later steps, of an attempt before, count no more."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(self._folder / "events"), f".attempt-{self._attempt}")
        log = SessionLog(status=SessionLog.START)
        self._writer.write_event(Written(wall_time=self._clock(), step=step + 1, session_log=log))
        self._flush()

    def _write(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._writer is None:
            return
        now = self._clock()
        for name, value in scalars.items():
            summary = scalar(name, value)
            self._writer.write_event(Written(wall_time=now, step=step, summary=summary))
        if now - self._flushed_at >= _SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def _flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()
            self._flushed_at = self._clock()
