"""The gate: which figure and which side of it a requirement is held to."""

from dataclasses import replace

import pytest

from finetune_api.evaluation import GateBound, GateRule
from finetune_api.evaluationreport import (
    BaselineScores,
    Contrast,
    GroupScores,
    GroupsReport,
    Interval,
)
from finetune_api.tasks import METRICS as FACTS
from finetune_api.tasks import TASKS, Baseline, Metric, Task
from finetune_trainer.evaluation.gate import judge
from finetune_trainer.evaluation.scores import Scores

TASK = Task.TEXT_CLASSIFICATION
METRICS = {
    Metric.ACCURACY: Interval(value=0.90, low=0.87, high=0.93),
    Metric.BALANCED_ACCURACY: Interval(value=0.80, low=0.75, high=0.85),
    Metric.MACRO_F1: Interval(value=0.70, low=0.65, high=0.75),
    Metric.MCC: Interval(value=0.60, low=0.50, high=0.70),
    Metric.LOSS: Interval(value=0.3),
    Metric.CALIBRATION_ERROR: Interval(value=0.02, low=0.01, high=0.05),
    Metric.BRIER: Interval(value=0.1),
}


def baseline(name: Baseline, reduction: Interval | None) -> BaselineScores:
    plain = Interval(value=0.5, low=0.4, high=0.6)
    return BaselineScores(name=name, metrics={Metric.ACCURACY: plain}, error_reduction=reduction)


BASELINES = (
    baseline(Baseline.MAJORITY, Interval(value=0.8, low=0.7, high=0.9)),
    baseline(Baseline.TFIDF, Interval(value=0.2, low=-0.05, high=0.4)),
)
SCORES = Scores(metrics=METRICS, baselines=BASELINES)


def rule(metric: Metric, limit: float, **more: object) -> GateRule:
    side = "max" if FACTS[metric].lower_is_better else "min"
    return GateRule.model_validate({"name": "a rule", "metric": metric, side: limit, **more})


@pytest.mark.parametrize(
    ("requirement", "measured", "passed"),
    [
        (rule(Metric.ACCURACY, 0.90), 0.90, True),
        (rule(Metric.ACCURACY, 0.91), 0.90, False),
        (rule(Metric.ACCURACY, 0.87, bound=GateBound.LOWER), 0.87, True),
        (rule(Metric.ACCURACY, 0.90, bound=GateBound.LOWER), 0.87, False),
        (rule(Metric.BALANCED_ACCURACY, 0.78), 0.80, True),
        (rule(Metric.MACRO_F1, 0.66, bound=GateBound.LOWER), 0.65, False),
        (rule(Metric.MCC, 0.55), 0.60, True),
        (rule(Metric.CALIBRATION_ERROR, 0.02), 0.02, True),
        (rule(Metric.CALIBRATION_ERROR, 0.01), 0.02, False),
        (rule(Metric.CALIBRATION_ERROR, 0.05, bound=GateBound.UPPER), 0.05, True),
        (rule(Metric.CALIBRATION_ERROR, 0.04, bound=GateBound.UPPER), 0.05, False),
        (rule(Metric.ERROR_REDUCTION, 0.1), 0.2, True),
        (rule(Metric.ERROR_REDUCTION, 0.0, bound=GateBound.LOWER), -0.05, False),
        (rule(Metric.ERROR_REDUCTION, 0.75, against="majority"), 0.8, True),
        (
            rule(Metric.ERROR_REDUCTION, 0.75, against="majority", bound=GateBound.LOWER),
            0.7,
            False,
        ),
    ],
)
def test_a_rule_measures_its_own_figure_on_its_own_side(
    requirement: GateRule, measured: float, *, passed: bool
) -> None:
    (result,) = judge(TASK, (requirement,), SCORES)
    assert (result.measured, result.passed) == (measured, passed)
    assert result.required in (requirement.min, requirement.max)
    assert result.bound == requirement.bound.value
    assert result.metric == requirement.metric.value


def test_error_reduction_is_named_with_its_baseline_and_goes_against_tfidf_by_default() -> None:
    results = judge(
        TASK,
        (
            rule(Metric.ERROR_REDUCTION, 0.1),
            rule(Metric.ERROR_REDUCTION, 0.1, against="majority"),
            rule(Metric.ACCURACY, 0.1),
        ),
        SCORES,
    )
    assert [result.against for result in results] == ["tfidf", "majority", None]


@pytest.mark.parametrize("bound", [GateBound.POINT, GateBound.LOWER])
@pytest.mark.parametrize("least", [-1.0, 0.0])
def test_an_undefined_error_reduction_does_not_pass(bound: GateBound, least: float) -> None:
    requirement = rule(Metric.ERROR_REDUCTION, least, bound=bound)
    (result,) = judge(
        TASK, (requirement,), replace(SCORES, baselines=(baseline(Baseline.TFIDF, None),))
    )
    assert result.measured is None
    assert not result.passed


def test_an_interval_without_a_low_end_passes_by_its_value_alone() -> None:
    open_ended = (baseline(Baseline.TFIDF, Interval(value=0.3, high=1.0)),)
    by_value, by_bound = judge(
        TASK,
        (
            rule(Metric.ERROR_REDUCTION, 0.1),
            rule(Metric.ERROR_REDUCTION, 0.1, bound=GateBound.LOWER),
        ),
        replace(SCORES, baselines=open_ended),
    )
    assert (by_value.measured, by_value.passed) == (0.3, True)
    assert (by_bound.measured, by_bound.passed) == (None, False)


def test_every_metric_that_a_manifest_may_name_is_measured() -> None:
    for metric in (*TASKS[TASK].metrics, Metric.ERROR_REDUCTION):
        (result,) = judge(TASK, (rule(metric, 0.0),), SCORES)
        assert result.measured is not None


def test_without_a_rule_there_is_nothing_to_fail() -> None:
    assert judge(TASK, (), SCORES) == ()


def contrast(metric: Metric, low: float, value: float, high: float, **more: object) -> Contrast:
    return Contrast.model_validate(
        {
            "metric": metric,
            "value": 0.8,
            "rest": 0.8 - value,
            "difference": {"value": value, "low": low, "high": high},
            "pValue": 0.5,
            "found": False,
            **more,
        }
    )


def group(name: str, *contrasts: Contrast, insufficient: tuple[Metric, ...] = ()) -> GroupScores:
    figure = Interval(value=0.8, low=0.7, high=0.9)
    return GroupScores(
        group=name, rows=100, figure=figure, contrasts=contrasts, insufficient=insufficient
    )


GROUPS = (
    group(
        "short",
        contrast(Metric.ACCURACY, -0.12, -0.08, -0.04),
        contrast(Metric.SELECTION_RATE, 0.05, 0.2, 0.35, label="yes"),
        contrast(Metric.FALSE_POSITIVE_RATE, -0.02, 0.03, 0.08, label="yes"),
    ),
    group(
        "long",
        contrast(Metric.ACCURACY, -0.15, 0.02, 0.19),
        contrast(Metric.SELECTION_RATE, -0.5, -0.3, -0.1, label="yes"),
        contrast(Metric.FALSE_POSITIVE_RATE, -0.6, -0.3, 0.0, label="yes"),
    ),
)


def grouped(*groups: GroupScores) -> Scores:
    return replace(SCORES, groups=(GroupsReport(column="dialect", groups=groups or GROUPS),))


def shortfall(metric: Metric, most: float, **more: object) -> GateRule:
    return GateRule.model_validate(
        {"name": "fair", "metric": metric, "group": "dialect", "maxShortfall": most, **more}
    )


@pytest.mark.parametrize(
    ("requirement", "worst", "measured", "passed"),
    [
        (shortfall(Metric.ACCURACY, 0.08), "short", 0.08, True),
        (shortfall(Metric.ACCURACY, 0.07), "short", 0.08, False),
        # On the bound it is the group about which least is known that falls shortest.
        (shortfall(Metric.ACCURACY, 0.14, bound=GateBound.UPPER), "long", 0.15, False),
        (shortfall(Metric.ACCURACY, 0.15, bound=GateBound.UPPER), "long", 0.15, True),
        # A rate of selection may differ to neither side.
        (shortfall(Metric.SELECTION_RATE, 0.29), "long", 0.3, False),
        (shortfall(Metric.SELECTION_RATE, 0.5, bound=GateBound.UPPER), "long", 0.5, True),
        # More false positives are worse, fewer are not.
        (shortfall(Metric.FALSE_POSITIVE_RATE, 0.02), "short", 0.03, False),
        (shortfall(Metric.FALSE_POSITIVE_RATE, 0.03), "short", 0.03, True),
    ],
)
def test_every_group_is_held_to_a_requirement_on_groups(
    requirement: GateRule, worst: str, measured: float, *, passed: bool
) -> None:
    (result,) = judge(TASK, (requirement,), grouped())
    assert (result.group, result.passed) == (worst, passed)
    assert result.measured == pytest.approx(measured)
    assert result.column == "dialect"
    assert result.shortfall is not None
    assert result.required == requirement.max_shortfall


def test_to_be_selected_more_often_than_the_rest_is_a_difference_too() -> None:
    (result,) = judge(TASK, (shortfall(Metric.SELECTION_RATE, 0.19),), grouped(GROUPS[0]))
    assert (result.passed, result.measured) == (False, 0.2)


@pytest.mark.parametrize(
    ("insufficient", "most", "passed", "named"),
    [
        (None, 0.5, False, "few"),
        ("fail", 0.5, False, "few"),
        ("pass", 0.5, True, "short"),
        ("pass", 0.01, False, "short"),
        (None, 0.01, False, "short"),
    ],
)
def test_a_group_with_too_few_rows_fails_unless_the_rule_says_otherwise(
    insufficient: str | None, most: float, *, passed: bool, named: str
) -> None:
    scores = grouped(*GROUPS, group("few", insufficient=(Metric.ACCURACY,)))
    requirement = shortfall(Metric.ACCURACY, most, insufficient=insufficient)
    (result,) = judge(TASK, (requirement,), scores)
    assert (result.passed, result.group, result.insufficient) == (passed, named, True)


def test_where_no_group_can_be_compared_nothing_is_shown_to_hold() -> None:
    scores = grouped(group("few", insufficient=(Metric.ACCURACY,)))
    (result,) = judge(TASK, (shortfall(Metric.ACCURACY, 1.0),), scores)
    assert (result.passed, result.measured, result.group) == (False, None, "few")
