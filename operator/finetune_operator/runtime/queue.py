"""The work queue: which job is looked at next, and when.

A key is worked on by one worker at a time; what is asked for meanwhile is done after. Of several
wishes for one key the earliest holds. Called by ``watches`` (something changed), by the workers
(look again), and by the resync.
"""

import asyncio
import heapq
import random
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 60.0

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """Keys and when each is due, in seconds of the event loop's clock."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Keys that wait or are worked on."""
        return len(self._due.keys() | self._busy)

    @property
    def overdue(self) -> int:
        """Keys that could be worked on now."""
        now = asyncio.get_running_loop().time()
        return sum(1 for key, due in self._due.items() if due <= now and key not in self._busy)

    def add(self, key: Key, after: float = 0.0) -> None:
        """Have a key worked on in so many seconds, or sooner if that was asked for already."""
        due = asyncio.get_running_loop().time() + after
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        self._push(key, due)
        self._changed.set()

    def close(self) -> None:
        """Hand out nothing more: workers that wait get None."""
        self._closed = True
        self._changed.set()

    async def get(self) -> Key | None:
        """Wait for the next key that is due; it is this worker's until ``done`` or ``failed``.

        None once the queue is closed.
        """
        while not self._closed:
            now = asyncio.get_running_loop().time()
            wait = None
            while self._heap:
                due, _, key = self._heap[0]
                if self._due.get(key) != due or key in self._busy:
                    # Overtaken by an earlier wish, or put back by ``done``.
                    heapq.heappop(self._heap)
                elif due <= now:
                    heapq.heappop(self._heap)
                    del self._due[key]
                    self._busy.add(key)
                    return key
                else:
                    wait = due - now
                    break
            self._changed.clear()
            # Not `asyncio.wait_for`: before Python 3.12 it swallows a cancellation that comes
            # together with what it waits for, and the worker would go on.
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
        return None

    def done(self, key: Key, again: float | None = None) -> None:
        """A key was worked on; ``again``: in so many seconds it is due once more."""
        self._failures.pop(key, None)
        self._finish(key)
        if again is not None:
            self.add(key, again)

    def failed(self, key: Key, at_least: float = 0.0) -> float:
        """Give a key up for now; it comes back after a growing delay, which is returned."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * float(1 << min(count - 1, 16)))
        delay = max(at_least, delay * random.uniform(0.75, 1.25))  # noqa: S311 (no secret)
        # A change that was announced meanwhile doesn't cut the delay short: it may be the cause.
        self._due.pop(key, None)
        self._finish(key)
        self.add(key, delay)
        return delay

    def _finish(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._due:
            self._push(key, self._due[key])
        self._changed.set()

    def _push(self, key: Key, due: float) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, key))
