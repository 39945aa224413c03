"""A linear axis: round tick values, and where a value lies on it in percent of its length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STEPS = (1, 2, 2.5, 5, 10)
_SHORTEST = 1e-6
"""Of the values' own size; a shorter axis is lengthened, for its ticks would be one."""


@dataclass(frozen=True)
class Axis:
    """From ``low`` to ``high``, with ticks on round values in between."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def percent(self, value: float) -> float:
        """Where a value lies: 0 at ``low``, 100 at ``high``."""
        return round(100 * (value - self.low) / (self.high - self.low), 3)

    @property
    def decimals(self) -> int:
        """Decimal places that tell the ticks apart."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        return next(d for d in range(10) if math.isclose(step, round(step, d), abs_tol=step / 100))


def axis(values: Sequence[float], *, ticks: int, whole: bool = False) -> Axis:
    """An axis that holds all values, widened to round ends, with about so many steps.

    ``whole`` allows whole tick values only. One value, or none, still gives an axis of some length.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < _SHORTEST * max(1.0, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / ticks
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * s for s in _STEPS if scale * s >= rough * 0.999999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    marks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Axis(marks[0], marks[-1], marks)
