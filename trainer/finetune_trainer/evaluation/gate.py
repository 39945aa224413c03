"""The gate: each requirement of the manifest against the figures of the test rows. Pure."""

import math

from finetune_api.evaluation import GateBound, GateRule
from finetune_api.evaluationreport import BaselineScores, Contrast, GateResult, Interval, SwapScores
from finetune_api.tasks import SWAPPED, TASKS, Baseline, Metric, Task
from finetune_trainer.evaluation.scores import Scores


def judge(task: Task, rules: tuple[GateRule, ...], scores: Scores) -> tuple[GateResult, ...]:
    """Hold the figures to the rules, in the rules' order.

    A figure that does not exist (an error reduction against a baseline without errors or one that
    was left out, an interval without that end) is reported as unset, and does not pass: nothing
    shows that it holds.
    """
    return tuple(_judge(rule, _against(task, rule), scores) for rule in rules)


def _judge(rule: GateRule, against: Baseline | None, scores: Scores) -> GateResult:
    if rule.group is not None:
        return _judge_groups(rule, rule.group, scores)
    if rule.metric in SWAPPED:
        return _judge_swaps(rule, scores)
    figure = _figure(rule, against, scores)
    measured = None if figure is None else rule.side(figure)
    return GateResult(
        name=rule.name,
        metric=rule.metric,
        against=against,
        bound=rule.bound.value,
        required=rule.required,
        measured=measured,
        passed=measured is not None and rule.holds(measured),
    )


def _judge_groups(rule: GateRule, column: str, scores: Scores) -> GateResult:
    """Hold the group that falls shortest to the rule, of whatever class."""
    groups = next(report for report in scores.groups if report.column == column).groups
    contrasts = [
        (group.group, one)
        for group in groups
        for one in group.contrasts
        if one.metric is rule.metric
    ]
    short = [group.group for group in groups if rule.metric in group.insufficient]

    def shortfall(pair: tuple[str, Contrast]) -> float:
        found = pair[1].shortfall
        end = found.value if rule.bound is GateBound.POINT else found.high
        return math.inf if end is None else end

    name, worst = max(contrasts, key=shortfall, default=(None, None))
    limit = rule.required
    measured = None if name is None or worst is None else shortfall((name, worst))
    holds = measured is None or measured <= limit
    unknown = bool(short) and rule.insufficient != "pass"
    if holds and unknown:
        name, worst, measured = short[0], None, None
    return GateResult(
        name=rule.name,
        metric=rule.metric,
        bound=rule.bound.value,
        required=limit,
        measured=measured,
        passed=holds and not unknown,
        column=column,
        group=name,
        label=None if worst is None else worst.label,
        shortfall=None if worst is None else worst.shortfall,
        insufficient=bool(short),
    )


def _judge_swaps(rule: GateRule, scores: Scores) -> GateResult:
    """Hold the swap that does most to the rule, of those that it names."""
    report = scores.counterfactuals
    assert report is not None, "the schema asks for counterfactuals"
    swaps = [one for one in report.swaps if rule.swap in {None, one.name}]

    def measured(one: SwapScores) -> float | None:
        figure = {
            Metric.FLIP_RATE: one.flip_rate,
            Metric.FLIP_EXCESS: one.excess,
            Metric.SWAP_CHANGE: one.change,
        }[rule.metric]
        return None if figure is None else rule.side(figure)

    short = [one for one in swaps if one.insufficient or measured(one) is None]
    known = [
        (value, one) for one in swaps if (value := measured(one)) is not None and one not in short
    ]
    most, worst = max(known, key=lambda pair: pair[0], default=(None, None))
    holds = most is None or rule.holds(most)
    unknown = bool(short) and rule.insufficient != "pass"
    if holds and unknown:
        most, worst = None, short[0]
    return GateResult(
        name=rule.name,
        metric=rule.metric,
        bound=rule.bound.value,
        required=rule.required,
        measured=most,
        passed=holds and not unknown,
        swap=None if worst is None else worst.name,
        insufficient=bool(short),
    )


def _against(task: Task, rule: GateRule) -> Baseline | None:
    if rule.metric is not Metric.ERROR_REDUCTION:
        return None
    return rule.against or TASKS[task].conventional


def _figure(rule: GateRule, against: Baseline | None, scores: Scores) -> Interval | None:
    if against is None:
        return scores.metrics.get(rule.metric)
    by_name: dict[Baseline, BaselineScores] = {one.name: one for one in scores.baselines}
    baseline = by_name.get(against)
    return None if baseline is None else baseline.error_reduction
