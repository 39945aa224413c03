"""One rank as its launcher sees it: a process, its events, its last lines, its end."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from finetune_trainer.reporting.events import Event, Failed, read_event
from finetune_trainer.training.place import Place
from finetune_trainer.training.stop import STACK_SIGNAL, STOP_SIGNALS

# A stack of training is some sixty lines deep.
_LAST_LINES = 120
_LINE_LIMIT = 400


@dataclass(frozen=True)
class RankEnd:
    """How a rank ended: ``returncode`` as ``subprocess`` has it, ``at`` in monotonic seconds."""

    rank: int
    returncode: int
    at: float
    told: Failed | None
    last_lines: str
    killed_here: bool


class RankProcess:
    """Starts a rank and follows it from two threads; ``ended`` is called once, from one of them."""

    def __init__(
        self,
        place: Place,
        environ: Mapping[str, str],
        *,
        heard: Callable[[Event], None],
        ended: Callable[[RankEnd], None],
    ) -> None:
        self.place = place
        self._heard = heard
        self._ended = ended
        self._told: Failed | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._killed_here = False
        events_in, events_out = os.pipe()
        # Held back until the rank can take them: before, a signal would kill it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "finetune_trainer.training.rank",
                    f"--events={events_out}",
                    f"--launcher={os.getpid()}",
                ],
                env=dict(environ),
                pass_fds=(events_out,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            os.close(events_out)
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout
        self._printing = threading.Thread(target=self._print, daemon=True)
        self._printing.start()
        self._following = threading.Thread(target=self._follow, args=(events_in,), daemon=True)
        self._following.start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it still runs."""
        self._process.send_signal(signal.SIGTERM)

    def show_stack(self) -> None:
        """Let it write where it is among its last lines, if it still runs and can."""
        self._process.send_signal(STACK_SIGNAL)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs; its end is then this launcher's doing."""
        if self._process.poll() is None:
            self._killed_here = True
            self._process.kill()

    def _follow(self, events_in: int) -> None:
        with os.fdopen(events_in, "rb") as events:
            for line in events:
                # A rank that is killed may leave half a line.
                if line.endswith(b"\n"):
                    self._take(read_event(line))
        returncode = self._process.wait()
        at = time.monotonic()
        self._printing.join()
        self._ended(
            RankEnd(
                rank=self.place.rank,
                returncode=returncode,
                at=at,
                told=self._told,
                last_lines="\n".join(self._lines),
                killed_here=self._killed_here,
            )
        )

    def _take(self, event: Event) -> None:
        if isinstance(event, Failed):
            self._told = event
        else:
            self._heard(event)

    def _print(self) -> None:
        """Pass the rank's output on, line by line, and keep the last ones for its obituary."""
        for line in self._output:
            text = line.decode(errors="replace").rstrip("\n")
            self._lines.append(text[:_LINE_LIMIT])
            # A log that is full or gone must not stop the reading: the rank would wait for it.
            with contextlib.suppress(OSError):
                sys.stderr.write(f"[rank {self.place.rank}] {text}\n")
                sys.stderr.flush()
