"""The pipe from a rank to its launcher: the writing end, held by the rank."""

import os
import threading

from finetune_trainer.reporting.events import Event, write_event


class Channel:
    """Sends events, one line each. A launcher that is gone is no error: the rank ends with it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def send(self, event: Event) -> None:
        """Write the whole line before returning."""
        line = memoryview(write_event(event))
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                return
