"""Whether probabilities can be taken at their word: the reliability diagram.

Called by ``evidence``. Positions are percent of the plot, from its left and its top.
"""

from dataclasses import dataclass

from finetune_api.evaluationreport import Calibration, EvaluationReport, Reliability
from finetune_api.tasks import Metric
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.axis import Axis, axis
from finetune_operator.cli.page.curve import Dot, Line, Tick
from finetune_operator.cli.page.verdict import title


@dataclass(frozen=True)
class Diagram:
    """Accuracy over top probability; on the diagonal from corner to corner both are the same."""

    before: Line
    after: Line
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    sentence: str
    rows: tuple[tuple[str, str, str], ...]
    has_temperature: bool


def calibration(report: EvaluationReport) -> Diagram | None:
    """The diagram; None of a task that has no such thing."""
    found = report.calibration
    if found is None:
        return None
    after = found.after
    shown = [*found.before.bins, *(after.bins if after is not None else ())]
    marks = axis(
        [1.0, *(value for one in shown for value in (one.confidence, one.accuracy))], ticks=5
    )
    ticks = tuple(
        Tick(marks.percent(value), figures.places(value, marks.decimals)) for value in marks.ticks
    )
    return Diagram(
        before=_line(found.before, marks, "as exported"),
        after=Line(()) if after is None else _line(after, marks, "with the temperature"),
        x_ticks=ticks,
        y_ticks=tuple(Tick(100 - tick.at, tick.text) for tick in ticks),
        sentence=_sentence(found),
        rows=_rows(found.before, after),
        has_temperature=after is not None,
    )


def _rows(before: Reliability, after: Reliability | None) -> tuple[tuple[str, str, str], ...]:
    def told(side: Reliability | None) -> tuple[str, ...]:
        if side is None:
            return (figures.UNDEFINED,) * 3
        values = (side.expected_calibration_error, side.loss, side.brier)
        return tuple(figures.score(value) for value in values)

    names = (title(metric) for metric in (Metric.CALIBRATION_ERROR, Metric.LOSS, Metric.BRIER))
    return tuple(zip(names, told(before), told(after), strict=True))


def _line(found: Reliability, marks: Axis, name: str) -> Line:
    return Line(
        tuple(
            Dot(
                marks.percent(one.confidence),
                round(100 - marks.percent(one.accuracy), 3),
                f"{name}: {figures.score(one.accuracy)} of {figures.counted(one.rows, 'row')} "
                f"right, with probability {figures.score(one.confidence)}",
            )
            for one in found.bins
        )
    )


def _sentence(found: Calibration) -> str:
    rows = sum(one.rows for one in found.before.bins)
    sure = sum(one.rows * one.confidence for one in found.before.bins) / rows
    right = sum(one.rows * one.accuracy for one in found.before.bins) / rows
    told = (
        f"On average the model is {figures.with_percent(sure)} sure, and right in "
        f"{figures.with_percent(right)} of the rows."
    )
    if found.temperature is None:
        return (
            f"{told} The {figures.count(found.select_rows)} select rows are too few, or too few of "
            "them wrong, to choose a temperature."
        )
    return (
        f"{told} The {figures.count(found.select_rows)} select rows chose a temperature of "
        f"{figures.score(found.temperature)}. The exported model does not apply it; divide its "
        "logits by it to have the probabilities of the right column."
    )
