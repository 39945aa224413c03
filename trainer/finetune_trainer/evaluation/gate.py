"""The gate: each requirement of the manifest against the figures of the test rows. Pure."""

from finetune_api.job import GateBound, GateMetric, GateRule
from finetune_api.report import BaselineScores, GateResult, Interval, Metrics

DEFAULT_BASELINE = "tfidf"


def judge(
    rules: tuple[GateRule, ...], metrics: Metrics, baselines: tuple[BaselineScores, ...]
) -> tuple[GateResult, ...]:
    """Hold the figures to the rules, in the rules' order.

    A figure that does not exist (an error reduction against a baseline without errors, an interval
    without a lower end) is reported as unset, and does not pass: nothing shows that it holds.
    """
    return tuple(_judge(rule, _figure(rule, metrics, baselines)) for rule in rules)


def _judge(rule: GateRule, figure: Interval | None) -> GateResult:
    measured = None
    if figure is not None:
        measured = figure.low if rule.bound is GateBound.LOWER else figure.value
    return GateResult(
        name=rule.name,
        metric=rule.metric.value,
        against=_against(rule),
        bound=rule.bound.value,
        required=rule.min,
        measured=measured,
        passed=measured is not None and measured >= rule.min,
    )


def _against(rule: GateRule) -> str | None:
    if rule.metric is not GateMetric.ERROR_REDUCTION:
        return None
    return rule.against or DEFAULT_BASELINE


def _figure(
    rule: GateRule, metrics: Metrics, baselines: tuple[BaselineScores, ...]
) -> Interval | None:
    match rule.metric:
        case GateMetric.ACCURACY:
            return metrics.accuracy
        case GateMetric.BALANCED_ACCURACY:
            return metrics.balanced_accuracy
        case GateMetric.MACRO_F1:
            return metrics.macro_f1
        case GateMetric.MCC:
            return metrics.mcc
        case GateMetric.ERROR_REDUCTION:
            by_name = {scores.name: scores for scores in baselines}
            return by_name[_against(rule) or ""].error_reduction
