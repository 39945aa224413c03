"""A training that is timed block by block, and rests while another one has its turn.

The rested process holds no core. `trainer.py` tells whose turn it is by a line on its standard
input, and reads what the block took from its standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass


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
