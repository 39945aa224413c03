"""What is left of a training is forecast from what it showed so far."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import Marks, Progress
from finetune_operator.cost.forecast import (
    LONGEST_SECONDS,
    Forecast,
    remaining,
    remaining_cost,
    seconds_per_step,
    seconds_to_first_step,
)
from unit.builders_cost import some_marks


def progress(step: int = 50, total_steps: int = 100, **fields: object) -> Progress:
    given = {"pod_uid": "pod-0", "attempt": 1, "step": step, "total_steps": total_steps, **fields}
    return Progress.model_validate(given)


def test_nothing_is_forecast_before_the_time_of_a_step_is_known() -> None:
    assert remaining(None, steps_left=100) is None
    assert remaining(progress(), startup_seconds=20) is None


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (progress(seconds_per_step=2), 100),
        (progress(0, seconds_per_step=2), 200),
        (progress(100, seconds_per_step=2), 0),
        (progress(101, seconds_per_step=2), 0),
        (progress(0, 0, seconds_per_step=2), 0),
        (progress(seconds_per_step=-2), 0),
        (
            progress(
                seconds_per_step=2,
                seconds_per_checkpoint=5,
                remaining_checkpoints=3,
                seconds_per_evaluation=7,
                remaining_evaluations=2,
            ),
            129,
        ),
        (progress(seconds_per_step=2, remaining_checkpoints=3, remaining_evaluations=4), 100),
        (
            progress(100, seconds_per_step=2, seconds_per_checkpoint=5, remaining_checkpoints=1),
            5,
        ),
    ],
)
def test_the_median_is_steps_and_what_comes_between_them(told: Progress, expected: float) -> None:
    forecast = remaining(told, steps_left=7, startup_seconds=1000)
    assert forecast is not None
    assert forecast.seconds_p50 == expected


@pytest.mark.parametrize(("step", "p90"), [(0, 300), (50, 130), (75, 60), (100, 0)])
def test_the_spread_falls_with_what_is_left(step: int, p90: float) -> None:
    forecast = remaining(progress(step, seconds_per_step=2))
    assert forecast is not None
    assert forecast.seconds_p90 == p90


def test_before_the_first_step_a_start_is_still_to_come_and_the_spread_is_wide() -> None:
    unmeasured = remaining(None, steps_left=10, earlier_seconds_per_step=3, startup_seconds=20)
    assert unmeasured == Forecast(seconds_p50=50, seconds_p90=80)
    assert remaining(None, steps_left=10, earlier_seconds_per_step=3) == Forecast(
        seconds_p50=30, seconds_p90=60
    )
    loading = remaining(
        progress(4, 10), steps_left=10, earlier_seconds_per_step=3, startup_seconds=20
    )
    assert loading == Forecast(seconds_p50=38, seconds_p90=56)


def test_a_failure_before_the_first_step_allows_for_another() -> None:
    forecast = remaining(
        None, steps_left=10, earlier_seconds_per_step=2, startup_seconds=20, failures=1
    )
    assert forecast == Forecast(seconds_p50=40, seconds_p90=90)


def test_the_spread_of_a_single_step_is_that_of_a_whole_training() -> None:
    forecast = remaining(progress(0, 1, seconds_per_step=2))
    assert forecast == Forecast(seconds_p50=2, seconds_p90=3)


def test_what_is_measured_now_stands_against_an_earlier_attempt() -> None:
    told = progress(seconds_per_step=2)
    assert remaining(told, steps_left=1, earlier_seconds_per_step=99) == remaining(told)


@pytest.mark.parametrize(
    ("told", "failures", "expected"),
    [
        # Each restart: 20 s of start, and half of 50 steps of 2 s.
        (progress(50, seconds_per_step=2), 1, Forecast(seconds_p50=170, seconds_p90=270)),
        (progress(50, seconds_per_step=2), 2, Forecast(seconds_p50=240, seconds_p90=340)),
        # Half of 10 steps of 2 s where four checkpoints are to come.
        (
            progress(50, seconds_per_step=2, remaining_checkpoints=4),
            1,
            Forecast(seconds_p50=130, seconds_p90=190),
        ),
        # Three quarters left: three restarts where one was seen so far.
        (progress(25, seconds_per_step=2), 1, Forecast(seconds_p50=435, seconds_p90=590)),
        # None was done: there is no rate yet, but one more is allowed for.
        (progress(0, seconds_per_step=2), 1, Forecast(seconds_p50=200, seconds_p90=420)),
        (progress(100, seconds_per_step=2), 3, Forecast(seconds_p50=0, seconds_p90=0)),
        # One of two steps: one restart of 20 s and half a step.
        (progress(1, 2, seconds_per_step=2), 1, Forecast(seconds_p50=23, seconds_p90=44.6)),
    ],
)
def test_restarts_are_expected_at_the_rate_at_which_they_came(
    told: Progress, failures: int, expected: Forecast
) -> None:
    assert remaining(told, startup_seconds=20, failures=failures) == expected


def test_a_forecast_ends_after_a_year() -> None:
    assert LONGEST_SECONDS == 365 * 24 * 3600
    told = progress(1, 10**10, seconds_per_step=1e308, remaining_checkpoints=10**10)
    year = float(LONGEST_SECONDS)
    assert remaining(told, failures=3) == Forecast(seconds_p50=year, seconds_p90=year)


counts = st.integers(min_value=0, max_value=10**9)
durations = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@given(
    told=st.builds(
        progress,
        step=counts,
        total_steps=counts,
        seconds_per_step=durations,
        seconds_per_checkpoint=durations,
        seconds_per_evaluation=durations,
        remaining_checkpoints=counts,
        remaining_evaluations=counts,
    ),
    earlier=durations,
    failures=st.integers(min_value=0, max_value=100),
)
def test_whatever_a_trainer_tells_the_forecast_is_ordered_and_bounded(
    told: Progress, earlier: float | None, failures: int
) -> None:
    forecast = remaining(told, earlier_seconds_per_step=earlier, failures=failures)
    if forecast is not None:
        assert 0 <= forecast.seconds_p50 <= forecast.seconds_p90 <= LONGEST_SECONDS


@pytest.mark.parametrize(
    ("marks", "pace", "start"),
    [
        (some_marks(started_at=5, first_step_at=20, last_step_at=80, last_step=31), 2.0, 15.0),
        (
            some_marks(first_step_at=20, last_step_at=80, last_step=61, resumed_from_step=30),
            2.0,
            None,
        ),
        (
            some_marks(
                started_at=20,
                first_step_at=20,
                last_step_at=80,
                last_step=11,
                checkpoint_milliseconds=7000,
                evaluation_milliseconds=3000,
            ),
            5.0,
            0.0,
        ),
        # One step says nothing of the time between two; saving for longer than all of it neither.
        (some_marks(started_at=9, first_step_at=20, last_step_at=20, last_step=1), None, 11.0),
        (
            some_marks(
                first_step_at=20, last_step_at=80, last_step=11, checkpoint_milliseconds=60_000
            ),
            None,
            None,
        ),
        (some_marks(started_at=30, last_step=11), None, None),
        (some_marks(started_at=30, first_step_at=20, last_step=11), None, 0.0),
    ],
)
def test_an_attempt_tells_by_its_marks_what_a_step_and_a_start_take(
    marks: Marks, pace: float | None, start: float | None
) -> None:
    assert seconds_per_step(marks) == pace
    assert seconds_to_first_step(marks) == start


def test_the_rest_costs_its_time_at_what_an_hour_costs() -> None:
    forecast = Forecast(seconds_p50=1800, seconds_p90=5400.5)
    assert remaining_cost(forecast, Fraction(7, 10)) == (
        Fraction(35, 100),
        Fraction(7, 10) * Fraction(10801, 7200),
    )
