"""The gate: which figure and which side of it a requirement is held to."""

import pytest

from finetune_api.job import GateBound, GateMetric, GateRule
from finetune_api.report import BaselineScores, Interval, Metrics
from finetune_trainer.evaluation.gate import judge

METRICS = Metrics(
    accuracy=Interval(value=0.90, low=0.87, high=0.93),
    balanced_accuracy=Interval(value=0.80, low=0.75, high=0.85),
    macro_f1=Interval(value=0.70, low=0.65, high=0.75),
    mcc=Interval(value=0.60, low=0.50, high=0.70),
    loss=0.3,
    expected_calibration_error=0.02,
    brier=0.1,
)


def baseline(name: str, reduction: Interval | None) -> BaselineScores:
    plain = Interval(value=0.5, low=0.4, high=0.6)
    return BaselineScores(name=name, accuracy=plain, macro_f1=plain, error_reduction=reduction)


BASELINES = (
    baseline("majority", Interval(value=0.8, low=0.7, high=0.9)),
    baseline("tfidf", Interval(value=0.2, low=-0.05, high=0.4)),
)


def rule(metric: GateMetric, least: float, **more: object) -> GateRule:
    return GateRule.model_validate({"name": "a rule", "metric": metric, "min": least, **more})


@pytest.mark.parametrize(
    ("requirement", "measured", "passed"),
    [
        (rule(GateMetric.ACCURACY, 0.90), 0.90, True),
        (rule(GateMetric.ACCURACY, 0.91), 0.90, False),
        (rule(GateMetric.ACCURACY, 0.87, bound=GateBound.LOWER), 0.87, True),
        (rule(GateMetric.ACCURACY, 0.90, bound=GateBound.LOWER), 0.87, False),
        (rule(GateMetric.BALANCED_ACCURACY, 0.78), 0.80, True),
        (rule(GateMetric.MACRO_F1, 0.66, bound=GateBound.LOWER), 0.65, False),
        (rule(GateMetric.MCC, 0.55), 0.60, True),
        (rule(GateMetric.ERROR_REDUCTION, 0.1), 0.2, True),
        (rule(GateMetric.ERROR_REDUCTION, 0.0, bound=GateBound.LOWER), -0.05, False),
        (rule(GateMetric.ERROR_REDUCTION, 0.75, against="majority"), 0.8, True),
        (
            rule(GateMetric.ERROR_REDUCTION, 0.75, against="majority", bound=GateBound.LOWER),
            0.7,
            False,
        ),
    ],
)
def test_a_rule_measures_its_own_figure_on_its_own_side(
    requirement: GateRule, measured: float, *, passed: bool
) -> None:
    (result,) = judge((requirement,), METRICS, BASELINES)
    assert (result.measured, result.passed) == (measured, passed)
    assert result.required == requirement.min
    assert result.bound == requirement.bound.value
    assert result.metric == requirement.metric.value


def test_error_reduction_is_named_with_its_baseline_and_goes_against_tfidf_by_default() -> None:
    results = judge(
        (
            rule(GateMetric.ERROR_REDUCTION, 0.1),
            rule(GateMetric.ERROR_REDUCTION, 0.1, against="majority"),
            rule(GateMetric.ACCURACY, 0.1),
        ),
        METRICS,
        BASELINES,
    )
    assert [result.against for result in results] == ["tfidf", "majority", None]


@pytest.mark.parametrize("bound", list(GateBound))
@pytest.mark.parametrize("least", [-1.0, 0.0])
def test_an_undefined_error_reduction_does_not_pass(bound: GateBound, least: float) -> None:
    requirement = rule(GateMetric.ERROR_REDUCTION, least, bound=bound)
    (result,) = judge((requirement,), METRICS, (baseline("tfidf", None),))
    assert result.measured is None
    assert not result.passed


def test_an_interval_without_a_low_end_passes_by_its_value_alone() -> None:
    open_ended = (baseline("tfidf", Interval(value=0.3, high=1.0)),)
    by_value, by_bound = judge(
        (
            rule(GateMetric.ERROR_REDUCTION, 0.1),
            rule(GateMetric.ERROR_REDUCTION, 0.1, bound=GateBound.LOWER),
        ),
        METRICS,
        open_ended,
    )
    assert (by_value.measured, by_value.passed) == (0.3, True)
    assert (by_bound.measured, by_bound.passed) == (None, False)


def test_every_metric_that_a_manifest_may_name_is_measured() -> None:
    for metric in GateMetric:
        (result,) = judge((rule(metric, 0.0),), METRICS, BASELINES)
        assert result.measured is not None


def test_without_a_rule_there_is_nothing_to_fail() -> None:
    assert judge((), METRICS, BASELINES) == ()
