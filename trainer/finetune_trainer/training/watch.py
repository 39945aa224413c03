"""Amid a save ranks wait for each other as long as it gets on: this tells when it no longer does.

A collective call that waits can't be interrupted, and a rank that hangs says nothing. So each rank
looks from threads, and those that wait end. The launcher knows the one that hangs by its silence.
"""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from finetune_api.report import Failure, FailureClass
from finetune_trainer.training.failure import TRACEBACK_LIMIT
from finetune_trainer.training.place import Place
from finetune_trainer.training.signs import SignsOfWork

_SECONDS_BETWEEN = 1.0
_MOST_NAMED = 8


@dataclass(frozen=True)
class Mark:
    """How far a rank is: collective calls entered since its start, and signs of work given."""

    entered: int = 0
    signs: int = 0

    def __str__(self) -> str:
        return f"{self.entered} {self.signs}"

    @classmethod
    def read(cls, text: bytes) -> "Mark":
        """What ``str`` wrote."""
        entered, signs = text.split()
        return cls(int(entered), int(signs))


def waited_for(marks: list[Mark], rank: int) -> list[int]:
    """The ranks that ``rank`` waits for: every rank enters the same calls, these have yet to."""
    return [other for other, mark in enumerate(marks) if mark.entered < marks[rank].entered]


class Watch:
    """Ends this rank if no rank got any further for ``patience`` while it waited for one.

    Ranks tell each other their marks through the store at which they met. Rank 0 holds it: one that
    does not answer any more is rank 0's halt.

    Parameters
    ----------
    end
        Tells the launcher, and leaves the process at once: its main thread is stuck.
    """

    def __init__(
        self,
        place: Place,
        store: dist.distributed_c10d.Store,
        *,
        patience: timedelta,
        end: Callable[[Failure], None],
    ) -> None:
        self._place = place
        # One of its own: the main thread's may be held in a call.
        self._store = store.clone()
        self._patience = patience.total_seconds()
        self._end = end
        self._told = [Mark()] * place.world_size
        self._told_at = 0.0
        # So that nobody has to wait for a mark of a rank that hangs before its first save.
        self._store.set(_key(place.rank), str(Mark()))

    @contextmanager
    def over(self, signs: SignsOfWork) -> Iterator[None]:
        """Watch within the block."""
        left = threading.Event()
        self._told_at = time.monotonic()
        for work in (self._exchange, self._judge):
            threading.Thread(
                target=work, args=(signs, left), name=f"watch{work.__name__}", daemon=True
            ).start()
        try:
            yield
        finally:
            left.set()

    def _exchange(self, signs: SignsOfWork, left: threading.Event) -> None:
        """Tell and ask, in a thread that may get stuck at it."""
        keys = [_key(rank) for rank in range(self._place.world_size)]
        try:
            while not left.is_set():
                self._store.set(_key(self._place.rank), str(_mark(signs)))
                self._told = [Mark.read(text) for text in self._store.multi_get(keys)]
                self._told_at = time.monotonic()
                left.wait(_SECONDS_BETWEEN)
        except RuntimeError:
            # Rank 0 is gone, and the store with it: that ends whoever waits for it.
            return

    def _judge(self, signs: SignsOfWork, left: threading.Event) -> None:
        seen: list[Mark] = []
        # By looks and not by the clock: a process that was halted itself has looked at nothing.
        quiet_seconds = 0.0
        while not left.wait(_SECONDS_BETWEEN):
            marks = list(self._told)
            marks[self._place.rank] = _mark(signs)
            quiet_seconds = quiet_seconds + _SECONDS_BETWEEN if marks == seen else 0.0
            seen = marks
            if quiet_seconds >= self._patience and (others := self._waited_for(marks)):
                self._end(self._failure(others))

    def _waited_for(self, marks: list[Mark]) -> list[int]:
        others = waited_for(marks, self._place.rank)
        unanswered = time.monotonic() - self._told_at > self._patience / 2
        return [0] if unanswered and 0 in others else others

    def _failure(self, others: list[int]) -> Failure:
        names = ", ".join(map(str, others[:_MOST_NAMED]))
        more = ", …" if len(others) > _MOST_NAMED else ""
        return Failure(
            failure_class=FailureClass.COLLECTIVE_HANG,
            message=f"nothing of a save got on for {self._patience:g} s, neither bytes nor files; "
            f"ranks that did not come along: {names}{more}",
            rank=self._place.rank,
            traceback=_main_stack(),
        )


def every_group() -> list[Any]:  # torch's stubs lack what is asked of them
    """All process groups, those that libraries have made among them."""
    return list(dist.distributed_c10d._world.pg_map)  # noqa: SLF001 - torch lists them nowhere else


def _mark(signs: SignsOfWork) -> Mark:
    # Torch counts the calls, and tells the number nowhere else.
    entered = sum(group._get_sequence_number_for_group() for group in every_group())  # noqa: SLF001
    return Mark(entered, signs.given)


def _key(rank: int) -> str:
    return f"watch/{rank}"


def _main_stack() -> str:
    """Where the main thread waits; its last lines."""
    # A documented function, whatever its name looks like.
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001
    return "".join(traceback.format_stack(frame))[-TRACEBACK_LIMIT:] if frame else ""
