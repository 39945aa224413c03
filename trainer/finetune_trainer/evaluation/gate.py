"""The gate: each requirement of the manifest against the figures of the test rows. Pure."""

from finetune_api.job import GateBound, GateRule
from finetune_api.report import BaselineScores, GateResult, Interval
from finetune_api.tasks import TASKS, Baseline, Metric, Task
from finetune_trainer.evaluation.scores import Scores


def judge(task: Task, rules: tuple[GateRule, ...], scores: Scores) -> tuple[GateResult, ...]:
    """Hold the figures to the rules, in the rules' order.

    A figure that does not exist (an error reduction against a baseline without errors, an interval
    without that end) is reported as unset, and does not pass: nothing shows that it holds.
    """
    return tuple(_judge(rule, _against(task, rule), scores) for rule in rules)


def _judge(rule: GateRule, against: Baseline | None, scores: Scores) -> GateResult:
    figure = _figure(rule, against, scores)
    sides = {
        GateBound.POINT: lambda one: one.value,
        GateBound.LOWER: lambda one: one.low,
        GateBound.UPPER: lambda one: one.high,
    }
    measured = None if figure is None else sides[rule.bound](figure)
    return GateResult(
        name=rule.name,
        metric=rule.metric,
        against=against,
        bound=rule.bound.value,
        required=_required(rule),
        measured=measured,
        passed=measured is not None and _holds(rule, measured),
    )


def _required(rule: GateRule) -> float:
    limit = rule.max if rule.min is None else rule.min
    if limit is None:
        raise ValueError(f"gate rule {rule.name} has neither min nor max, which the schema refuses")
    return limit


def _holds(rule: GateRule, measured: float) -> bool:
    return measured <= _required(rule) if rule.min is None else measured >= rule.min


def _against(task: Task, rule: GateRule) -> Baseline | None:
    if rule.metric is not Metric.ERROR_REDUCTION:
        return None
    return rule.against or TASKS[task].conventional


def _figure(rule: GateRule, against: Baseline | None, scores: Scores) -> Interval | None:
    if against is None:
        return scores.metrics.get(rule.metric)
    by_name: dict[Baseline, BaselineScores] = {one.name: one for one in scores.baselines}
    return by_name[against].error_reduction
