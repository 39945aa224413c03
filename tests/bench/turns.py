"""A training that is timed block by block, and rests while another one has its turn.

The rested process holds no core. `trainer.py` tells whose turn it is by a line on its standard
input, and reads what the block took from its standard output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self


@dataclass(frozen=True)
class Block:
    """What a piece of work took: seconds by the clock and of the processor.

    Of optimizer steps also their loss, and their real tokens where they are counted.
    """

    seconds: float
    cpu_seconds: float
    loss: float = 0.0
    tokens: int = 0


class Turns:
    """The trained process's side. Its first turn begins with the process."""

    def __init__(self) -> None:
        # What libraries print must not stand between the lines.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._go()

    def done(self, loss: float, tokens: int = 0) -> None:
        """Say what the block took, and rest; without a further turn, the process ends here."""
        block = Block(
            time.perf_counter() - self._began,
            time.process_time() - self._cpu_began,
            loss,
            tokens,
        )
        self._answers.write(json.dumps(asdict(block)) + "\n")
        self._answers.flush()
        if not sys.stdin.readline():
            os._exit(0)
        self._go()

    def _go(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.process_time()


class Contender:
    """The other side: a training that is given turns."""

    def __init__(
        self, name: str, command: list[str], environ: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            env=dict(environ),
            text=True,
        )
        self._started = False

    def turn(self) -> Block:
        """Let it do a block; the first turn is the one that it began with."""
        if self._started:
            self._to.write("go\n")
            self._to.flush()
        self._started = True
        line = self._from.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early:\n{self._log.read_text()[-3000:]}")
        return Block(**json.loads(line))

    @property
    def _to(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _from(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def __enter__(self) -> Self:
        """Nothing to do: it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._to.close()
        self._process.kill()
        self._process.wait()
