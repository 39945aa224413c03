"""Temperature scaling (Guo et al. 2017): one number that the logits are divided by. Pure.

The select rows choose it, the test rows show what it does. No class changes by it.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from finetune_api.evaluationreport import Calibration, Reliability
from finetune_trainer.evaluation.metrics import (
    Integers,
    brier_score,
    expected_calibration_error,
    log_probabilities,
    negative_log_likelihood,
    reliability,
)

FEWEST_ROWS = 30
_WIDEST = np.log(20.0)
_AT_AN_END = 0.01

Logits = NDArray[np.floating]


def calibrate(
    select: Logits, select_labels: Integers, test: Logits, test_labels: Integers
) -> Calibration:
    """Fit on the select rows, and measure the test rows before and after; logits are ``[n, K]``."""
    temperature = fit_temperature(select, select_labels)
    return Calibration(
        before=_reliability(test, test_labels),
        temperature=temperature,
        after=None if temperature is None else _reliability(test / temperature, test_labels),
        select_rows=len(select_labels),
    )


def fit_temperature(logits: Logits, labels: Integers) -> float | None:
    """The temperature of the least negative log-likelihood; None where the rows don't tell it.

    The loss is convex in the inverse temperature. Where it falls to the end of what is searched, a
    twentieth to twenty, the rows are all right or of no use, and there is no temperature.
    """
    if len(labels) < FEWEST_ROWS:
        return None

    def loss(log_temperature: float) -> float:
        scaled = logits.astype(np.float64) * np.exp(-log_temperature)
        return float(negative_log_likelihood(log_probabilities(scaled), labels).mean())

    found = minimize_scalar(loss, bounds=(-_WIDEST, _WIDEST), method="bounded")
    if abs(found.x) > _WIDEST - _AT_AN_END:
        return None
    return float(np.exp(found.x))


def _reliability(logits: Logits, labels: Integers) -> Reliability:
    log_probability = log_probabilities(logits)
    probability = np.exp(log_probability)
    return Reliability(
        loss=float(negative_log_likelihood(log_probability, labels).mean()),
        expected_calibration_error=expected_calibration_error(probability, labels),
        brier=float(brier_score(probability, labels).mean()),
        bins=reliability(probability, labels),
    )
