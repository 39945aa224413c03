"""On whom does a model fail: the groups of ``evaluation.groups``, each against all other rows.

Pure; each task's evidence says what is compared. All contrasts of a report are one family: with
groups drawn at random the chance that any is called found is at most 5 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluationreport import (
    Amplification,
    Contrast,
    GroupScores,
    GroupsReport,
    Interval,
)
from finetune_api.tasks import Metric
from finetune_trainer.evaluation.contrasts import (
    FEWEST_CLUSTERS,
    Contrasts,
    Grouping,
    RowValues,
    contrast,
    holm,
)
from finetune_trainer.evaluation.metrics import Floats, Integers

LEVEL = 0.05
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class RowFigure:
    """A figure that is a mean over rows or over what they hold; ``label`` is a rate's class."""

    metric: Metric
    rows: RowValues
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class ClassGap:
    """Of each row whether it is called a class, less whether it is one: 1, 0 or -1."""

    label: str
    values: Floats


def of_rows(metric: Metric, values: Floats | Flags, *, is_share: bool) -> RowFigure:
    """A figure over all rows: their mean."""
    numbers = values.astype(np.float64)
    counted = np.ones(len(numbers), dtype=np.bool_)
    return RowFigure(
        metric=metric, rows=RowValues(values=numbers, counted=counted, is_share=is_share)
    )


def of_sums(
    metric: Metric, values: Floats | Integers, sizes: Floats | Integers, *, is_share: bool
) -> RowFigure:
    """A figure that is a ratio of sums over rows: tokens that are right over tokens, say.

    Rows with nothing to divide by, such as those without a span, do not count.
    """
    things = sizes.astype(np.float64)
    rows = RowValues(
        values=values.astype(np.float64), counted=things > 0, is_share=is_share, sizes=things
    )
    return RowFigure(metric=metric, rows=rows)


def rates(names: Sequence[str], truth: Flags, told: Flags) -> Iterator[RowFigure]:
    """Selection, true positive and false positive rate of each class; flags are ``[n, K]``."""
    everything = np.ones(len(truth), dtype=np.bool_)
    for place, name in enumerate(names):
        there, said = truth[:, place], told[:, place].astype(np.float64)
        for metric, counted in (
            (Metric.SELECTION_RATE, everything),
            (Metric.TRUE_POSITIVE_RATE, there),
            (Metric.FALSE_POSITIVE_RATE, ~there),
        ):
            rows = RowValues(values=said, counted=counted, is_share=True)
            yield RowFigure(metric=metric, rows=rows, label=name)


def gaps(names: Sequence[str], truth: Flags, told: Flags) -> Iterator[ClassGap]:
    """What amplification is measured by; flags are ``[n, K]``."""
    for place, name in enumerate(names):
        values = told[:, place].astype(np.float64) - truth[:, place]
        yield ClassGap(label=name, values=values)


@dataclass(frozen=True)
class _Column:
    name: str
    groups: tuple[str, ...]
    grouping: Grouping
    contrasts: tuple[Contrasts, ...]

    @property
    def tested(self) -> Flags:
        """Which of the contrasts are tests of their own, ``[figures, groups]``."""
        comparable = np.stack([one.comparable for one in self.contrasts])
        if len(self.groups) == 2:
            # The second group's rest is the first: the same test, seen from the other side.
            comparable[:, 1] = False
        return comparable


def compare(
    columns: Mapping[str, Sequence[str]],
    figures: Sequence[RowFigure],
    amplified: Sequence[ClassGap] = (),
    cluster: Integers | None = None,
) -> tuple[GroupsReport, ...]:
    """Compare the groups that each column makes, by each figure; the first is said of each group.

    ``columns`` has a group's name for each row, ``cluster`` the row's cluster if there are any.
    """
    made = [_column(name, values, figures, cluster) for name, values in columns.items()]
    if not made:
        return ()
    tested = [column.tested for column in made]
    raw = [np.stack([one.p_values for one in column.contrasts]) for column in made]
    adjusted = holm(np.concatenate([p[mask] for p, mask in zip(raw, tested, strict=True)]))
    reports, start = [], 0
    for column, mask in zip(made, tested, strict=True):
        p_values = np.ones(mask.shape)
        p_values[mask] = adjusted[start : start + int(mask.sum())]
        start += int(mask.sum())
        if len(column.groups) == 2:
            p_values[:, 1] = p_values[:, 0]
        reports.append(_report(column, figures, p_values, amplified))
    return tuple(reports)


def shortened(report: GroupsReport) -> GroupsReport:
    """The report with one class for each rate of a group: of those found, or of all, the widest."""

    def worst(group: GroupScores) -> GroupScores:
        chosen: dict[Metric, Contrast] = {}
        for one in sorted(group.contrasts, key=lambda one: (one.found, abs(one.difference.value))):
            chosen[one.metric] = one
        kept = tuple(one for one in group.contrasts if chosen[one.metric] is one)
        return group.model_copy(update={"contrasts": kept})

    return report.model_copy(update={"groups": tuple(worst(group) for group in report.groups)})


def _column(
    name: str, values: Sequence[str], figures: Sequence[RowFigure], cluster: Integers | None
) -> _Column:
    groups, group = np.unique(np.asarray(values, dtype=np.str_), return_inverse=True)
    grouping = Grouping(group=group, groups=len(groups), cluster=cluster)
    return _Column(
        name,
        tuple(str(one) for one in groups),
        grouping,
        tuple(contrast(figure.rows, grouping) for figure in figures),
    )


def _report(
    column: _Column,
    figures: Sequence[RowFigure],
    p_values: Floats,
    amplified: Sequence[ClassGap],
) -> GroupsReport:
    everything = np.ones(len(column.grouping.group), dtype=np.bool_)
    wider = [
        contrast(RowValues(values=one.values, counted=everything, is_share=False), column.grouping)
        for one in amplified
    ]
    first = column.contrasts[0].group
    scores = []
    for place, name in enumerate(column.groups):
        has_interval = first.clusters[place] >= FEWEST_CLUSTERS
        missing = [
            figure.metric
            for figure, one in zip(figures, column.contrasts, strict=True)
            if not one.comparable[place]
        ]
        scores.append(
            GroupScores(
                group=name,
                rows=int(np.count_nonzero(column.grouping.group == place)),
                figure=Interval(
                    # Without a span that is there or told, F1 is 0, as it is of all rows.
                    value=float(np.nan_to_num(first.value[place])),
                    low=float(first.low[place]) if has_interval else None,
                    high=float(first.high[place]) if has_interval else None,
                ),
                contrasts=tuple(
                    _contrast(figure, one, place, float(p_values[number, place]))
                    for number, (figure, one) in enumerate(
                        zip(figures, column.contrasts, strict=True)
                    )
                    if one.comparable[place]
                ),
                insufficient=tuple(dict.fromkeys(missing)),
                amplification=_amplification(amplified, wider, place),
            )
        )
    return GroupsReport(column=column.name, groups=tuple(scores))


def _contrast(figure: RowFigure, one: Contrasts, place: int, p_value: float) -> Contrast:
    return Contrast(
        metric=figure.metric,
        label=figure.label,
        value=float(one.group.value[place]),
        rest=float(one.rest.value[place]),
        difference=_difference(one, place),
        p_value=p_value,
        found=p_value <= LEVEL,
    )


def _amplification(
    amplified: Sequence[ClassGap], contrasts: Sequence[Contrasts], place: int
) -> Amplification | None:
    known = [
        (abs(one.difference[place]), number)
        for number, one in enumerate(contrasts)
        if one.comparable[place]
    ]
    if not known:
        return None
    _, number = max(known, key=lambda pair: (pair[0], -pair[1]))
    return Amplification(
        label=amplified[number].label, difference=_difference(contrasts[number], place)
    )


def _difference(one: Contrasts, place: int) -> Interval:
    return Interval(
        value=float(one.difference[place]), low=float(one.low[place]), high=float(one.high[place])
    )
