"""Says that work which makes no step for a while gets on: saving, and scoring the select rows.

Without it a save to slow storage would look like a stall. What hangs gives no sign. The operator
hears those of rank 0; ranks that wait for each other hear all (``watch``).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.times import format_time
from finetune_trainer.reporting.events import Event, Working

_SECONDS_BETWEEN = 1.0


class SignsOfWork:
    """What a rank tells of its progress between steps, at most every ``seconds``.

    ``given`` counts all of them.
    """

    def __init__(self, say: Callable[[Event], None], *, seconds: float = _SECONDS_BETWEEN) -> None:
        self._say = say
        self._seconds = seconds
        self._said_at = time.monotonic()
        self.given = 0

    def give(self) -> None:
        """Something is done: a batch is scored, a file has reached the disk or is read again."""
        self.given += 1
        now = time.monotonic()
        if now - self._said_at >= self._seconds:
            self._said_at = now
            self._say(Working(at=format_time(datetime.now(UTC))))

    @contextmanager
    def while_it_grows(self, folder: Path) -> Iterator[None]:
        """Give a sign within the block whenever there is more in the folder than before.

        Whoever writes there, on any worker; from a thread, since writers answer to nobody.
        """
        over = threading.Event()

        def look() -> None:
            seen = _bytes_in(folder)
            while not over.wait(self._seconds):
                found = _bytes_in(folder)
                if found != seen:
                    seen = found
                    self.give()

        looking = threading.Thread(target=look, name="signs-of-work", daemon=True)
        looking.start()
        try:
            yield
        finally:
            over.set()


def _bytes_in(folder: Path) -> int:
    """Bytes of all files, as far as storage that fails for a moment lets them be counted."""
    total = 0
    with suppress(OSError):
        for path in folder.rglob("*"):
            total += path.stat().st_size
    return total
