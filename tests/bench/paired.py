"""How two ways of doing the same work compare, from pairs of timings made side by side. Pure.

A shared machine is faster at one moment than at another. The two timings of a pair are made one
after the other on the same work, so that what the machine does to one it does to both; pairs take
turns in which goes first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A ratio of speeds with its 95 % interval."""

    value: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        """Format it as a cell of a table."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f}, {self.pairs} pairs)"

    def against(self, goal: float) -> str:
        """Whether the speed is at least ``goal``, as far as the interval can tell."""
        if self.low >= goal:
            return f"at least {goal:g}: met"
        if self.high < goal:
            return f"at least {goal:g}: missed"
        return f"at least {goal:g}: {'met' if self.value >= goal else 'missed'}, within the noise"


def speed_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """How much faster ``ours`` is, from seconds of the same work, pair by pair.

    The geometric mean of the pairs' ratios, with Student's t interval on their logarithms: times
    vary by factors, and a handful of pairs is too few for a bootstrap to cover what it says.

    Raises
    ------
    ValueError
        If there are fewer than two pairs, or one of them is not whole.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"{len(ours)} and {len(theirs)} timings: two pairs at least are needed")
    logs = [math.log(other / own) for own, other in zip(ours, theirs, strict=True)]
    count = len(logs)
    mean = sum(logs) / count
    variance = sum((one - mean) ** 2 for one in logs) / (count - 1)
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * math.sqrt(variance / count)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), count)
