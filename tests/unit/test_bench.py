"""The arithmetic of the speed benchmarks: their ratios' intervals and the lengths of their rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.lengths import LONGEST, row_lengths
from bench.paired import Ratio, speed_ratio


def test_a_ratio_is_of_speeds_pair_by_pair() -> None:
    slow_and_fast_machine = [2.0, 20.0, 4.0]
    ratio = speed_ratio(slow_and_fast_machine, [3.0, 30.0, 6.0])
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_is_students_of_the_logarithms() -> None:
    ratio = speed_ratio([1.0, 1.0, 1.0], [1.0, math.e, math.e**2])
    # Mean 1 and deviation 1 of three: Student's 97.5 % quantile of two degrees is 4.302653.
    half = 4.302653 / math.sqrt(3)
    logs = [math.log(one) for one in (ratio.value, ratio.low, ratio.high)]
    assert logs == pytest.approx([1.0, 1.0 - half, 1.0 + half], abs=1e-6)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    chance = np.random.default_rng(1)
    noise = np.exp(chance.normal(0.0, 0.2, size=(2000, 2, 6)))
    ratios = [speed_ratio(ours.tolist(), theirs.tolist()) for ours, theirs in noise]
    assert 0.93 < np.mean([one.low <= 1 <= one.high for one in ratios]) < 0.97


@pytest.mark.parametrize(("ours", "theirs"), [([1.0], [1.0]), ([1.0, 2.0], [1.0])])
def test_fewer_than_two_whole_pairs_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="two pairs at least"):
        speed_ratio(ours, theirs)


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [
        (0.98, 0.99, 1.00, "met"),
        (0.90, 0.93, 0.96, "missed"),
        (0.90, 0.98, 1.10, "met, within the noise"),
        (0.90, 0.95, 1.10, "missed, within the noise"),
    ],
)
def test_a_goal_is_settled_where_the_interval_settles_it(
    low: float, value: float, high: float, verdict: str
) -> None:
    assert Ratio(value, low, high, 6).against(0.97) == f"at least 0.97: {verdict}"


def test_rows_have_the_stated_lengths_and_the_same_each_time() -> None:
    lengths = row_lengths(20_000)
    assert np.percentile(lengths, [50, 95]) == pytest.approx([96, 512], rel=0.05)
    assert lengths.max() == LONGEST
    assert row_lengths(100, longest=300).max() <= 300
    assert (row_lengths(100) == lengths[:100]).all()
