"""What the evaluation found: requirements, baselines, classes and confusions. Called by ``render``.

Positions are percent of an axis, shares percent of a row; every figure is the report's own.
"""

from dataclasses import dataclass

from finetune_api.report import BaselineFit, EvaluationReport, GateResult, Interval, PrepareReport
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.axis import Axis, axis
from finetune_operator.cli.page.curve import Tick
from finetune_operator.cli.page.facts import PageFacts
from finetune_operator.cli.page.verdict import baseline_name, compared, metric_name

WIDEST_MATRIX = 24
"""Classes that a matrix shows; of more, the most frequent confusions are listed."""
_LISTED_CONFUSIONS = 25


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
    """A value with its interval on the common axis."""

    name: str
    is_model: bool
    at: float
    low: float | None
    high: float | None
    accuracy: str
    macro_f1: str
    reduction: str
    fitted: str
    cross_validated: str


@dataclass(frozen=True)
class Comparison:
    """Model and baselines on one axis of accuracy."""

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
    """One class: its figures as text, and as percent for the bars."""

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
    metrics: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    matrix: tuple[tuple[Cell, ...], ...]
    confusions: tuple[Confusion, ...]
    classes: tuple[ClassRow, ...]


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
        comparison=_comparison(report, facts.prepare),
        metrics=_metrics(report),
        labels=report.labels,
        matrix=() if wide else tuple(_row(i, row) for i, row in enumerate(report.confusion_matrix)),
        confusions=_confusions(report) if wide else (),
        classes=tuple(
            ClassRow(
                c.label,
                tuple((figures.score(v), 100 * v) for v in (c.precision, c.recall, c.f1)),
                figures.count(c.support),
            )
            for c in report.per_class
        ),
    )


def _requirement(result: GateResult) -> Requirement:
    what = metric_name(result.metric)
    if result.against is not None:
        what += f" against {baseline_name(result.against)}"
    if result.bound == "Lower":
        what += f", lower bound of its 95{figures.NO_BREAK_SPACE}% interval"
    return Requirement(
        result.name,
        what,
        figures.score(result.required),
        "undefined" if result.measured is None else figures.score(result.measured),
        result.passed,
    )


def _metrics(report: EvaluationReport) -> tuple[tuple[str, str], ...]:
    metrics = report.metrics
    return (
        ("Accuracy", figures.interval(metrics.accuracy)),
        ("Balanced accuracy", figures.interval(metrics.balanced_accuracy)),
        ("Macro F1", figures.interval(metrics.macro_f1)),
        ("Matthews correlation (MCC)", figures.interval(metrics.mcc)),
        ("Loss (mean negative log-likelihood, nats)", figures.score(metrics.loss)),
        ("Expected calibration error", figures.score(metrics.expected_calibration_error)),
        ("Brier score", figures.score(metrics.brier)),
    )


def _comparison(report: EvaluationReport, prepare: PrepareReport | None) -> Comparison:
    fits = {fit.name: fit for fit in prepare.baselines} if prepare is not None else {}
    baselines = sorted(report.baselines, key=lambda b: -b.accuracy.value)
    accuracies = [report.metrics.accuracy, *(b.accuracy for b in baselines)]
    marks = axis(
        [v for a in accuracies for v in (a.value, a.low, a.high) if v is not None], ticks=5
    )
    model = _whisker("this model", report.metrics.accuracy, report.metrics.macro_f1, marks)
    others = (
        _whisker(
            baseline_name(baseline.name),
            baseline.accuracy,
            baseline.macro_f1,
            marks,
            reduction=baseline.error_reduction,
            fit=fits.get(baseline.name),
            is_model=False,
        )
        for baseline in baselines
    )
    return Comparison(
        rows=(model, *others),
        ticks=tuple(
            Tick(marks.percent(value), figures.places(value, marks.decimals))
            for value in marks.ticks
        ),
        sentences=tuple(f"The model {compared(b.name, b.error_reduction)}." for b in baselines),
    )


def _whisker(
    name: str,
    accuracy: Interval,
    macro_f1: Interval,
    marks: Axis,
    *,
    reduction: Interval | None = None,
    fit: BaselineFit | None = None,
    is_model: bool = True,
) -> Whisker:
    fitted = ", ".join(f"{k} {v}" for k, v in fit.settings.items()) if fit is not None else ""
    return Whisker(
        name=name,
        is_model=is_model,
        at=marks.percent(accuracy.value),
        low=None if accuracy.low is None else marks.percent(accuracy.low),
        high=None if accuracy.high is None else marks.percent(accuracy.high),
        accuracy=figures.interval(accuracy),
        macro_f1=figures.interval(macro_f1),
        reduction="" if is_model else figures.interval(reduction),
        fitted=fitted,
        cross_validated=figures.score(fit.cross_validated_accuracy) if fit is not None else "",
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
