"""The generalization gap: its figures by hand, its intervals by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from finetune_trainer.evaluation.generalization import Losses, generalization


def losses(values: list[float], weights: list[float] | None = None) -> Losses:
    own = np.ones(len(values)) if weights is None else np.asarray(weights)
    return Losses(losses=np.asarray(values) * own, weights=own, units=np.arange(len(values)))


def test_the_gap_is_the_select_rows_mean_less_the_training_rows() -> None:
    found = generalization(losses([0.1, 0.3]), losses([0.6, 0.2], [1, 3]))
    assert (found.train_loss.value, found.select_loss.value) == pytest.approx((0.2, 0.3))
    assert found.gap.value == pytest.approx(0.1)
    assert found.gap.low is None, "two rows are too few for an interval"


def test_intervals_hold_the_truth_as_often_as_they_say_weighted_or_not() -> None:
    chance, runs, held = np.random.default_rng(5), 600, 0
    for _ in range(runs):
        sides = []
        for mean in (0.3, 0.5):
            weights = chance.integers(1, 20, size=60).astype(np.float64)
            values = chance.gamma(2.0, mean / 2, size=60)
            sides.append(losses(list(values), list(weights)))
        gap = generalization(*sides).gap
        assert gap.low is not None
        assert gap.high is not None
        held += gap.low <= 0.2 <= gap.high
    assert 0.92 <= held / runs <= 0.98


def test_rows_that_belong_together_count_as_one() -> None:
    chance = np.random.default_rng(2)
    values = np.repeat(chance.gamma(2.0, 0.2, size=30), 10)
    alone = losses(list(values))
    together = Losses(losses=values, weights=np.ones(300), units=np.repeat(np.arange(30), 10))
    narrow, wide = generalization(alone, alone).gap, generalization(together, together).gap
    assert narrow.low is not None
    assert wide.low is not None
    assert -wide.low > 2.5 * -narrow.low
