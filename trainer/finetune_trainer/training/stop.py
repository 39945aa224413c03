"""The request to stop: a flag that a signal sets, and that all ranks agree on before they obey.

A handler does nothing else: a rank that left a step alone would hang the others. Ranks look at
the flag together at the end of each step (``boundary``) and between batches of an evaluation, so
they save the same step.
"""

import signal
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STACK_SIGNAL = signal.SIGUSR1
"""Not a stop: the launcher asks a rank with it where it is."""


class StopRequest:
    """Whether this process was asked to stop. A second request changes nothing."""

    def __init__(self) -> None:
        self._requested = False

    @property
    def requested(self) -> bool:
        """True from the first signal on."""
        return self._requested

    def install(self) -> None:
        """Take the signals; those that came while they were held back arrive now."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._take)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._requested = True
