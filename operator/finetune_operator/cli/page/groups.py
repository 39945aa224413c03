"""On whom it fails: the groups of test rows, each against all others. Called by ``evidence``.

Positions are percent of an axis that all groups of a column share.
"""

from dataclasses import dataclass

from finetune_api.evaluationreport import (
    Contrast,
    EvaluationReport,
    GroupScores,
    GroupsReport,
    Interval,
)
from finetune_api.tasks import METRICS, TASKS, Metric
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.axis import Axis, axis
from finetune_operator.cli.page.curve import Tick
from finetune_operator.cli.page.verdict import title


@dataclass(frozen=True)
class Difference:
    """A cell: how far a group is from the rest, of which class, and what is found."""

    text: str
    span: str
    label: str
    found: str


@dataclass(frozen=True)
class GroupRow:
    """One group: its figure on the axis, and a cell for each figure that is compared."""

    name: str
    rows: str
    figure: str
    is_worse: bool
    at: float
    low: float | None
    high: float | None
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class GroupTable:
    """The groups of a column; ``overall`` is where the figure of all rows lies on the axis."""

    column: str
    title: str
    titles: tuple[str, ...]
    sentence: str
    rows: tuple[GroupRow, ...]
    ticks: tuple[Tick, ...]
    overall: float
    overall_text: str


def groups(report: EvaluationReport) -> tuple[GroupTable, ...]:
    """A table for each column of ``evaluation.groups``."""
    return tuple(_table(report, one) for one in report.groups)


def _table(report: EvaluationReport, column: GroupsReport) -> GroupTable:
    compared = TASKS[report.task].by_group
    overall = report.metrics[compared[0]]
    shown = [overall, *(group.figure for group in column.groups)]
    marks = axis([v for a in shown for v in (a.value, a.low, a.high) if v is not None], ticks=5)
    amplified = any(group.amplification is not None for group in column.groups)
    return GroupTable(
        column=column.column,
        title=title(compared[0]),
        titles=(
            *(title(metric) for metric in compared),
            *(("Amplification",) if amplified else ()),
        ),
        sentence=_sentence(column),
        rows=tuple(_row(group, compared, marks, amplified=amplified) for group in column.groups),
        ticks=tuple(
            Tick(marks.percent(value), figures.places(value, marks.decimals))
            for value in marks.ticks
        ),
        overall=marks.percent(overall.value),
        overall_text=figures.score(overall.value),
    )


def _row(
    group: GroupScores, compared: tuple[Metric, ...], marks: Axis, *, amplified: bool
) -> GroupRow:
    by_metric = {one.metric: one for one in group.contrasts}
    low, high = group.figure.low, group.figure.high
    cells = [_difference(by_metric.get(metric)) for metric in compared]
    if amplified:
        cells.append(_amplification(group))
    return GroupRow(
        name=group.group,
        rows=figures.count(group.rows),
        figure=figures.interval(group.figure),
        is_worse=any(is_worse(one) for one in group.contrasts),
        at=marks.percent(group.figure.value),
        low=None if low is None else marks.percent(low),
        high=None if high is None else marks.percent(high),
        differences=tuple(cells),
    )


def is_worse(contrast: Contrast) -> bool:
    """Whether the group is found to be worse off than the rest."""
    if contrast.metric is Metric.SELECTION_RATE:
        return False
    return contrast.found and contrast.shortfall.value > 0


def _difference(contrast: Contrast | None) -> Difference:
    if contrast is None:
        return Difference("too few rows", "", "", "")
    found = ""
    if contrast.found:
        found = "differs" if contrast.metric is Metric.SELECTION_RATE else "better"
        found = "worse" if is_worse(contrast) else found
    difference = contrast.difference
    return Difference(_signed(difference), figures.bounds(difference), contrast.label or "", found)


def _amplification(group: GroupScores) -> Difference:
    found = group.amplification
    if found is None:
        return Difference("too few rows", "", "", "")
    return Difference(_signed(found.difference), figures.bounds(found.difference), found.label, "")


def _signed(difference: Interval) -> str:
    text = figures.score(difference.value)
    return f"+{text}" if difference.value > 0 and text.strip("0.") else text


def _sentence(column: GroupsReport) -> str:
    worse = [
        f"{group.group} ({', '.join(_told(one) for one in group.contrasts if is_worse(one))})"
        for group in column.groups
        if any(is_worse(one) for one in group.contrasts)
    ]
    unknown = [group.group for group in column.groups if not group.contrasts]
    told = "No group is found to be worse off than the rest: what differs may be chance."
    if len(unknown) == len(column.groups):
        told = "No group has rows enough to be compared with the rest."
    elif worse:
        told = f"It is found to be worse for {'; '.join(worse)}."
    elif unknown:
        told += f" Too few rows to compare: {', '.join(unknown)}."
    return told


def _told(contrast: Contrast) -> str:
    of = f" of {contrast.label}" if contrast.label is not None else ""
    name = METRICS[contrast.metric].name
    return f"{name}{of} {figures.score(contrast.value)}, the rest {figures.score(contrast.rest)}"
