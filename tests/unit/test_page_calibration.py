"""The page's section on calibration: how sure, how often right, and what a temperature does."""

import dataclasses

import pytest

from finetune_operator.cli.page import PageFacts
from finetune_operator.cli.page.evidence import evidence
from unit.builders_page import calibration, complete, evaluated
from unit.test_page import read


def with_calibration(temperature: float | None = 1.62) -> PageFacts:
    report = evaluated(calibration=calibration(temperature=temperature))
    return dataclasses.replace(complete(), evaluation=report)


def test_figures_stand_as_exported_and_with_the_temperature() -> None:
    text = read(with_calibration()).text
    assert "On average the model is 76 % sure, and right in 72 % of the rows." in text
    assert "The 857 select rows chose a temperature of 1.620." in text
    assert "The exported model does not apply it" in text
    assert "Expected calibration error 0.052 0.012" in text
    assert "Loss (mean negative log-likelihood, nats) 0.366 0.326" in text


def test_without_a_temperature_it_says_why() -> None:
    text = read(with_calibration(None)).text
    assert "857 select rows are too few, or too few of them wrong, to choose a temperature" in text
    assert "Expected calibration error 0.052 –" in text
    assert "Can its probabilities be trusted?" not in read(complete()).text


def test_a_point_on_the_diagonal_is_right_as_often_as_it_says() -> None:
    report = evaluated(
        calibration={
            "before": {
                "loss": 0.3,
                "expectedCalibrationError": 0.1,
                "brier": 0.2,
                "bins": [
                    {"confidence": 0.6, "accuracy": 0.6, "rows": 50},
                    {"confidence": 0.9, "accuracy": 0.7, "rows": 50},
                ],
            },
            "selectRows": 12,
        }
    )
    found = evidence(dataclasses.replace(complete(), evaluation=report))
    assert found is not None
    assert found.calibration is not None
    honest, sure = found.calibration.before.dots
    assert honest.x == pytest.approx(100 - honest.y)
    assert sure.y > 100 - sure.x, "too sure lies below the diagonal"
