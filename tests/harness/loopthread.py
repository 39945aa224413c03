"""An event loop in a thread of its own, for what goes on beside a test: a kubelet, a proxy.

The test itself stays plain code that waits: it calls into the loop and gets the answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_T = TypeVar("_T")
# Guards against a hang alone.
_ANSWER_SECONDS = 180


class LoopThread:
    """A running loop; made by `loop_thread`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._started: list[asyncio.Task[None]] = []

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the loop and return what it returns, or raise what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_SECONDS)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine that goes on until the loop ends; its error is raised then."""

        async def begin() -> None:
            self._started.append(asyncio.ensure_future(work))

        self.call(begin())

    def end(self) -> None:
        """Cancel what still runs; raise the error of what was started and failed."""
        failed = [task for task in self._started if task.done() and task.exception()]
        self.call(_cancel_others())
        for task in failed:
            task.result()


@contextmanager
def loop_thread(name: str) -> Iterator[LoopThread]:
    """Run a loop until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    running = LoopThread(loop)
    try:
        yield running
    finally:
        try:
            running.end()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
