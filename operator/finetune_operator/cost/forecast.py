"""How long a training will still take and what that will cost, from what was measured so far.

Asked by the core for the status. A forecast moves no money: budgets are held by ``budget``.
"""

from dataclasses import dataclass
from fractions import Fraction

from finetune_api.report import Marks, Progress
from finetune_api.times import milliseconds_between, parse_time

LONGEST_SECONDS = 31_536_000
"""A forecast of more than a year says a year."""

_SPREAD_ALWAYS = Fraction(1, 10)
_SPREAD_AT_START = Fraction(4, 10)
_SPREAD_UNMEASURED = Fraction(1)


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Seconds until the training is done: as likely more as less, and nine times in ten less."""

    seconds_p50: float
    seconds_p90: float


def remaining(
    progress: Progress | None,
    *,
    steps_left: int = 0,
    earlier_seconds_per_step: float | None = None,
    startup_seconds: float = 0.0,
    failures: int = 0,
) -> Forecast | None:
    """Forecast the rest of a training, or None where no step of it was measured yet.

    Before rank 0 has counted its steps there are ``steps_left``; before it has measured one, a step
    is taken to need what it needed in an earlier attempt. Nothing is assumed of a first start.

    The median is steps × seconds per step, with the checkpoints and evaluations that are still to
    come; the start, before the first step; and restarts, which are expected at the rate at which
    they were seen: ``failures`` over the part that is done. Each costs a start, of
    ``startup_seconds``, and half the steps between two checkpoints.

    The P90 is a rule, not a measurement: 10 % more, and up to 40 % more in proportion to the part
    that is left (a time per step of an earlier attempt: twice the time), and one more restart if
    there was any.
    """
    measured = _seconds(progress.seconds_per_step) if progress is not None else None
    per_step = measured if measured is not None else _seconds(earlier_seconds_per_step)
    if per_step is None:
        return None
    total, done = (progress.total_steps, progress.step) if progress else (steps_left, 0)
    left = max(0, total - done)
    saves = progress.remaining_checkpoints if progress is not None else 0
    work = left * per_step
    if progress is not None:
        work += saves * (_seconds(progress.seconds_per_checkpoint) or 0)
        work += progress.remaining_evaluations * (_seconds(progress.seconds_per_evaluation) or 0)
    startup = _seconds(startup_seconds) or Fraction(0)
    start = startup if measured is None else Fraction(0)
    restart = startup + Fraction(left, saves + 1) / 2 * per_step
    expected = Fraction(failures * left, done) if done > 0 else Fraction(0)
    another = 1 if failures > 0 and left > 0 else 0
    spread = _SPREAD_UNMEASURED
    if measured is not None:
        spread = _SPREAD_ALWAYS + _SPREAD_AT_START * Fraction(left, max(1, total))
    return Forecast(
        seconds_p50=_within_a_year(work + start + expected * restart),
        seconds_p90=_within_a_year(work * (1 + spread) + start + (expected + another) * restart),
    )


def seconds_per_step(marks: Marks) -> float | None:
    """Seconds per step of an attempt, by its marks; None before its second step."""
    steps = marks.last_step - marks.resumed_from_step - 1
    if steps < 1 or marks.first_step_at is None or marks.last_step_at is None:
        return None
    span = milliseconds_between(parse_time(marks.first_step_at), parse_time(marks.last_step_at))
    work = span - marks.checkpoint_milliseconds - marks.evaluation_milliseconds
    return work / steps / 1000 if work > 0 else None


def seconds_to_first_step(marks: Marks) -> float | None:
    """Seconds from the process's begin to its first step, by its marks; None before that."""
    if marks.started_at is None or marks.first_step_at is None:
        return None
    span = milliseconds_between(parse_time(marks.started_at), parse_time(marks.first_step_at))
    return max(0, span) / 1000


def _seconds(told: float | None) -> Fraction | None:
    """Seconds as a trainer told them, exactly; it can't tell fewer than none."""
    return None if told is None else max(Fraction(0), Fraction(told))


def _within_a_year(seconds: Fraction) -> float:
    return float(min(seconds, Fraction(LONGEST_SECONDS)))


def remaining_cost(forecast: Forecast, burn_per_hour: Fraction) -> tuple[Fraction, Fraction]:
    """Return what the rest will cost at so much per hour: P50 and P90."""
    return (
        Fraction(forecast.seconds_p50) * burn_per_hour / 3600,
        Fraction(forecast.seconds_p90) * burn_per_hour / 3600,
    )
