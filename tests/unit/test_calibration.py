"""Temperature: chosen by the select rows, measured on the test rows, and no class changes by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.evaluation.calibration import FEWEST_ROWS, calibrate, fit_temperature
from finetune_trainer.evaluation.metrics import (
    Floats,
    Integers,
    expected_calibration_error,
    log_probabilities,
    negative_log_likelihood,
    reliability,
)


def drawn(rows: int, seed: int, classes: int = 3) -> tuple[Floats, Integers]:
    """Honest logits: each row's class is drawn by the probabilities that they give."""
    random = np.random.default_rng(seed)
    logits = 2.0 * random.normal(size=(rows, classes))
    chance = np.exp(log_probabilities(logits)).cumsum(axis=1)
    labels = (random.random((rows, 1)) > chance).sum(axis=1).clip(0, classes - 1)
    return logits, labels.astype(np.int64)


@pytest.mark.parametrize("too_sure", [0.4, 1.0, 3.0])
def test_a_model_that_is_too_sure_by_a_factor_gets_that_factor(too_sure: float) -> None:
    logits, labels = drawn(20_000, seed=1)
    assert fit_temperature(too_sure * logits, labels) == pytest.approx(too_sure, rel=0.03)


def test_the_test_rows_show_what_the_select_rows_chose() -> None:
    (select, select_labels), (test, labels) = drawn(2000, seed=2), drawn(4000, seed=3)
    found = calibrate(3 * select, select_labels, 3 * test, labels)
    after = found.after
    assert after is not None
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert after.loss < found.before.loss
    assert after.brier < found.before.brier
    assert after.expected_calibration_error < 0.3 * found.before.expected_calibration_error
    assert found.select_rows == 2000


def test_no_class_changes() -> None:
    logits, labels = drawn(500, seed=4)
    found = calibrate(3 * logits, labels, 3 * logits, labels)
    assert found.after is not None
    accuracy = [
        sum(one.rows * one.accuracy for one in side.bins) for side in (found.before, found.after)
    ]
    assert accuracy[0] == pytest.approx(accuracy[1])


@given(st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_no_temperature_near_by_is_better(seed: int) -> None:
    logits, labels = drawn(200, seed)
    best = fit_temperature(logits, labels)
    assert best is not None

    def loss(temperature: float) -> float:
        return float(
            negative_log_likelihood(log_probabilities(logits / temperature), labels).mean()
        )

    assert loss(best) <= min(loss(best * 1.02), loss(best / 1.02))


def test_rows_that_tell_no_temperature_give_none() -> None:
    logits, labels = drawn(FEWEST_ROWS - 1, seed=5)
    assert fit_temperature(logits, labels) is None
    logits, _ = drawn(200, seed=6)
    faultless = logits.argmax(axis=1)
    assert fit_temperature(logits, faultless) is None, "all right: the surer the better"
    assert fit_temperature(logits, logits.argmin(axis=1)) is None, "all wrong"
    found = calibrate(logits, faultless, logits, faultless)
    assert (found.temperature, found.after) == (None, None)
    assert found.before.bins


@given(st.integers(0, 100), st.integers(20, 300))
@settings(max_examples=20, deadline=None)
def test_bins_hold_every_row_once_and_the_error_is_their_gap(seed: int, rows: int) -> None:
    logits, labels = drawn(rows, seed)
    # Probabilities of few values: equal ones may not be torn apart.
    probabilities = np.exp(log_probabilities(np.round(logits)))
    bins = reliability(probabilities, labels)
    assert sum(one.rows for one in bins) == rows
    assert len(bins) <= 15
    order = np.random.default_rng(seed).permutation(rows)
    again = reliability(probabilities[order], labels[order])
    assert [(one.rows, one.accuracy) for one in again] == [(one.rows, one.accuracy) for one in bins]
    gap = sum(one.rows / rows * abs(one.accuracy - one.confidence) for one in bins)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(gap)
