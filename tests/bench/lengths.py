"""How long the rows of the speed benchmarks are: a stated distribution, drawn from a seed. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MEDIAN = 96
PERCENTILE_95 = 512
LONGEST = 1024
SEED = 20
_SHORTEST = 8
_NORMAL_95 = 1.6448536269514722
"""The 95th percentile of the standard normal distribution."""


def row_lengths(rows: int, longest: int = LONGEST) -> NDArray[np.int64]:
    """Tokens of each row: log-normal, median 96, 95th percentile 512, cut at ``longest``.

    The same for the same number of rows, on every machine: the generator's stream is frozen.
    """
    spread = math.log(PERCENTILE_95 / MEDIAN) / _NORMAL_95
    drawn = np.random.RandomState(SEED).lognormal(math.log(MEDIAN), spread, rows)
    return np.clip(np.round(drawn), _SHORTEST, longest).astype(np.int64)
