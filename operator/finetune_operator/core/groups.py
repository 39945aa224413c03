"""The groups of an evaluation as a status tells them: few, the worst first.

Called by ``intake``.
"""

from collections.abc import Iterator

from finetune_api.evaluationreport import (
    Contrast,
    EvaluationReport,
    GateResult,
    GroupScores,
    Interval,
)
from finetune_api.status import EvaluationStatus, GroupDifference
from finetune_api.tasks import METRICS, TASKS, Metric

STATUS_BYTES = 8192
_MOST = 12


def group_differences(report: EvaluationReport) -> tuple[GroupDifference, ...]:
    """Of each group the first figure, and each other one by which it is found to differ."""
    found = [
        (column.column, group, contrast)
        for column in report.groups
        for group in column.groups
        for contrast in _told(group)
    ]
    found.sort(key=lambda one: _rank(one[2]))
    headline = TASKS[report.task].by_group[0]
    return tuple(
        GroupDifference(
            column=column,
            group=group.group,
            rows=group.rows,
            metric=headline if contrast is None else contrast.metric,
            label=None if contrast is None else contrast.label,
            value=_short(group.figure.value if contrast is None else contrast.value),
            difference=None if contrast is None else _shortened(contrast.difference),
            found=contrast is not None and contrast.found,
        )
        for column, group, contrast in found[:_MOST]
    )


def _told(group: GroupScores) -> Iterator[Contrast | None]:
    """What is worth a line; None stands for a group that has too few rows."""
    first = next(iter(group.contrasts), None)
    if first is None or first.label is not None:
        yield None
    yield from (one for one in group.contrasts if one.found or one.label is None)


def _rank(contrast: Contrast | None) -> tuple[bool, float]:
    if contrast is None:
        return (True, 0.0)
    return (not contrast.found, -contrast.shortfall.value)


def within_bytes(status: EvaluationStatus) -> EvaluationStatus:
    """The status without what is also in the report, as far as it would be too long."""
    for part in ("confusion_matrix", "per_class", "groups", "counterfactuals"):
        if len(status.model_dump_json(by_alias=True, exclude_none=True).encode()) <= STATUS_BYTES:
            break
        empty = None if part == "counterfactuals" else ()
        status = status.model_copy(update={part: empty})
    return status


def gate_sentence(result: GateResult) -> str:
    """What a requirement on groups says of the group that doesn't hold it."""
    of = f" of {result.label}" if result.label is not None else ""
    what = f"{METRICS[result.metric].name}{of}"
    where = f"{result.column} {result.group}"
    limit = f"at most {result.required:g} is allowed"
    if result.shortfall is None:
        return f"{where} has too few rows to compare its {what}, and {limit}."
    value, low, high = result.shortfall.value, result.shortfall.low, result.shortfall.high
    span = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    verb = "differs" if result.metric is Metric.SELECTION_RATE else "is worse"
    return f"{what} {verb} by {value:.4f}{span} for {where} than for the rest, {limit}."


def _shortened(interval: Interval) -> Interval:
    return Interval(
        value=_short(interval.value),
        low=None if interval.low is None else _short(interval.low),
        high=None if interval.high is None else _short(interval.high),
    )


def _short(value: float) -> float:
    return float(f"{value:.5g}")
