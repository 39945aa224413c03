"""What the evaluation found: requirements, baselines, classes and confusions. Called by ``render``.

Positions are percent of an axis, shares percent of a row; every figure is the report's own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from finetune_api.balance import uncalibrated
from finetune_api.datareport import BaselineFit
from finetune_api.evaluationreport import (
    BaselineScores,
    EvaluationReport,
    GateResult,
    Generation,
    Metrics,
)
from finetune_api.phases import ConditionType
from finetune_api.status import JobStatus
from finetune_api.tasks import BASELINES, METRICS, TASKS, TaskFacts
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.axis import Axis, axis
from finetune_operator.cli.page.calibration import Diagram, calibration
from finetune_operator.cli.page.curve import Tick
from finetune_operator.cli.page.facts import PageFacts
from finetune_operator.cli.page.groups import GroupTable, groups
from finetune_operator.cli.page.swaps import SwapTable, swaps
from finetune_operator.cli.page.verdict import compared, measured_shortfall, title
from finetune_operator.core.conditions import find, is_true

WIDEST_MATRIX = 24
"""Classes that a matrix shows; of more, the most frequent confusions are listed."""
_LISTED_CONFUSIONS = 25
_SHOWN_THRESHOLDS = 8
"""Of more labels, a baseline's thresholds stand in the report alone."""


@dataclass(frozen=True)
class Requirement:
    """One line of the gate."""

    name: str
    what: str
    required: str
    measured: str
    passed: bool


@dataclass(frozen=True)
class Whisker:
    """A value with its interval on the common axis; ``figures`` are the compared ones as text."""

    name: str
    is_model: bool
    at: float
    low: float | None
    high: float | None
    figures: tuple[str, ...]
    reduction: str
    fitted: str
    cross_validated: str


@dataclass(frozen=True)
class Comparison:
    """Model and baselines on one axis of the headline, which ``titles`` names first."""

    titles: tuple[str, ...]
    error: str
    rows: tuple[Whisker, ...]
    ticks: tuple[Tick, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix; ``share`` of its row from 0 to 1."""

    count: str
    percent: str
    share: float
    right: bool


@dataclass(frozen=True)
class Confusion:
    """Rows of one class that were taken for another."""

    true: str
    predicted: str
    count: str
    percent: str


@dataclass(frozen=True)
class ClassRow:
    """One class, label or kind of entity: its figures as text, and as percent for the bars."""

    label: str
    figures: tuple[tuple[str, float], ...]
    support: str


@dataclass(frozen=True)
class Evidence:
    """Everything on the test rows."""

    test_rows: str
    resamples: str
    unit: str
    gate: tuple[Requirement, ...]
    comparison: Comparison
    groups: tuple[GroupTable, ...]
    swaps: SwapTable | None
    calibration: Diagram | None
    metrics: tuple[tuple[str, str], ...]
    thresholds: str
    labels: tuple[str, ...]
    matrix: tuple[tuple[Cell, ...], ...]
    confusions: tuple[Confusion, ...]
    class_title: str
    support_title: str
    calibration_note: str
    classes: tuple[ClassRow, ...]
    answers: tuple[Generation, ...]
    mistakes: tuple[tuple[str, ...], ...]


def evidence(facts: PageFacts) -> Evidence | None:
    """The section on the test rows; None before they were scored."""
    report = facts.evaluation
    if report is None:
        return None
    wide = len(report.labels) > WIDEST_MATRIX
    return Evidence(
        test_rows=figures.count(report.test_rows),
        resamples=figures.count(report.resamples),
        unit=report.interval_unit,
        gate=tuple(_requirement(result) for result in report.gate),
        comparison=_comparison(report, facts),
        groups=groups(report),
        swaps=swaps(report.counterfactuals),
        calibration=calibration(report),
        metrics=tuple(
            (title(metric), figures.interval(report.metrics[metric]))
            for metric in TASKS[report.task].metrics
            if metric in report.metrics
        ),
        thresholds=", ".join(
            f"{label} {figures.score(value)}" for label, value in report.thresholds.items()
        ),
        labels=report.labels,
        matrix=() if wide else tuple(_row(i, row) for i, row in enumerate(report.confusion_matrix)),
        confusions=_confusions(report) if wide else (),
        class_title=(TASKS[report.task].classes or "").capitalize(),
        support_title=TASKS[report.task].support.capitalize(),
        calibration_note=uncalibrated(facts.job.spec.training),
        classes=tuple(
            ClassRow(
                c.label,
                tuple((figures.score(v), 100 * v) for v in (c.precision, c.recall, c.f1)),
                figures.count(c.support),
            )
            for c in report.per_class
        ),
        answers=report.generations,
        mistakes=tuple(
            (one.row_id, one.truth, one.predicted, figures.with_percent(one.probability))
            for one in report.mistakes
        ),
    )


def _requirement(result: GateResult) -> Requirement:
    what = METRICS[result.metric].name
    if result.column is not None:
        what = f"shortfall of any {result.column} in {what}"
    if result.swap is not None:
        what += f", of swap {result.swap}"
    if result.against is not None:
        what += f" against {BASELINES[result.against]}"
    if result.bound != "Point":
        what += f", {result.bound.lower()} bound of its 95{figures.NO_BREAK_SPACE}% interval"
    at_most = result.column is not None or METRICS[result.metric].lower_is_better
    limit = "≤" if at_most else "≥"
    measured = "undefined" if result.measured is None else figures.score(result.measured)
    if result.column is not None:
        measured = measured_shortfall(result)
    return Requirement(
        result.name,
        what,
        f"{limit}{figures.NO_BREAK_SPACE}{figures.score(result.required)}",
        measured,
        result.passed,
    )


def _comparison(report: EvaluationReport, facts: PageFacts) -> Comparison:
    task, prepare = TASKS[report.task], facts.prepare
    fits = {fit.name: fit for fit in prepare.baselines} if prepare is not None else {}
    sign = 1 if METRICS[task.headline].lower_is_better else -1
    baselines = sorted(report.baselines, key=lambda b: sign * b.metrics[task.headline].value)
    measured = [report.metrics, *(b.metrics for b in baselines)]
    shown = [metrics[task.headline] for metrics in measured]
    marks = axis([v for a in shown for v in (a.value, a.low, a.high) if v is not None], ticks=5)
    cuts = report.baseline_thresholds
    others = (
        _baseline(one, task, marks, fits.get(one.name), cuts.get(one.name, {})) for one in baselines
    )
    return Comparison(
        titles=tuple(title(metric) for metric in task.compared),
        error=task.error.noun,
        rows=(_whisker("this model", task, report.metrics, marks), *others),
        ticks=tuple(
            Tick(marks.percent(value), figures.places(value, marks.decimals))
            for value in marks.ticks
        ),
        sentences=(
            *(f"The model {compared(task.error, b)}." for b in baselines),
            *(
                f"It was not compared with {BASELINES[name]}: {reason}."
                for name, reason in report.baselines_left_out.items()
            ),
            *_passing(facts.status),
        ),
    )


def _passing(status: JobStatus) -> Iterator[str]:
    """That a baseline met the gate before anything was trained, if one did."""
    kind = ConditionType.BASELINE_PASSES
    if is_true(status.conditions, kind) and (found := find(status.conditions, kind)) is not None:
        yield found.message


def _whisker(name: str, task: TaskFacts, metrics: Metrics, marks: Axis) -> Whisker:
    headline = metrics[task.headline]
    return Whisker(
        name=name,
        is_model=True,
        at=marks.percent(headline.value),
        low=None if headline.low is None else marks.percent(headline.low),
        high=None if headline.high is None else marks.percent(headline.high),
        figures=tuple(figures.interval(metrics[metric]) for metric in task.compared),
        reduction="",
        fitted="",
        cross_validated="",
    )


def _baseline(
    baseline: BaselineScores,
    task: TaskFacts,
    marks: Axis,
    fit: BaselineFit | None,
    cuts: Mapping[str, float],
) -> Whisker:
    settings = list(fit.settings.items()) if fit is not None else []
    told_from = [(f"{label} from", figures.score(cut)) for label, cut in cuts.items()]
    if len(told_from) <= _SHOWN_THRESHOLDS:
        settings += told_from
    return replace(
        _whisker(BASELINES[baseline.name], task, baseline.metrics, marks),
        is_model=False,
        reduction=figures.interval(baseline.error_reduction),
        fitted=", ".join(f"{name} {value}" for name, value in settings),
        cross_validated=figures.score(fit.cross_validated) if fit is not None else "",
    )


def _row(true: int, counts: tuple[int, ...]) -> tuple[Cell, ...]:
    total = sum(counts)
    return tuple(
        Cell(
            figures.count(number),
            figures.with_percent(number / total) if total else figures.UNDEFINED,
            round(number / total, 4) if total else 0.0,
            true == predicted,
        )
        for predicted, number in enumerate(counts)
    )


def _confusions(report: EvaluationReport) -> tuple[Confusion, ...]:
    wrong = [
        (number, true, predicted)
        for true, row in enumerate(report.confusion_matrix)
        for predicted, number in enumerate(row)
        if number and true != predicted
    ]
    wrong.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    return tuple(
        Confusion(
            report.labels[true],
            report.labels[predicted],
            figures.count(number),
            figures.with_percent(number / sum(report.confusion_matrix[true])),
        )
        for number, true, predicted in wrong[:_LISTED_CONFUSIONS]
    )
