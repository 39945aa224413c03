"""The loss curve: training and select loss over optimizer steps. Called by ``render``.

Positions are percent of the plot, from its left and its top, so that one drawing fits any width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.evaluationreport import EvaluationReport
from finetune_api.phases import ConditionType
from finetune_api.report import CurvePoint, Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.axis import Axis, axis
from finetune_operator.cli.page.facts import PageFacts

_FEWEST_POINTS = 2


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A measured point; ``told`` is its reading in words."""

    x: float
    y: float
    told: str


@dataclass(frozen=True)
class Line:
    """One series: its dots, and the same as the points of a polyline."""

    dots: tuple[Dot, ...]

    @property
    def points(self) -> str:
        """For the ``points`` of an SVG polyline."""
        return " ".join(f"{dot.x:g},{dot.y:g}" for dot in self.dots)


@dataclass(frozen=True)
class Mark:
    """A vertical mark at a step: the best checkpoint, or where an attempt took up the work."""

    x: float
    text: str

    @property
    def beyond_middle(self) -> bool:
        """Whether its text has to stand on its left."""
        return self.x > 50


@dataclass(frozen=True)
class LossCurve:
    """The drawing, and the readings that a screen reader gets instead."""

    train: Line
    select: Line
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    best: Mark | None
    resumed: tuple[Mark, ...]
    summary: str
    overfitting: str
    gap: str


def loss_curve(facts: PageFacts) -> LossCurve | None:
    """The curve of a job's training; None before there are two points to join."""
    progress = facts.status.progress
    if progress is None or len(progress.curve) < _FEWEST_POINTS:
        return None
    points = sorted(progress.curve, key=lambda point: point.step)
    losses = [v for p in points for v in (p.loss, p.select_loss) if v is not None]
    if not losses:
        return None
    end = float(max(points[-1].step, progress.total_steps))
    across = Axis(0.0, end, axis([0.0, end], ticks=6, whole=True).ticks)
    upward = axis(losses, ticks=5)
    best = best_step(facts)
    return LossCurve(
        train=_line([(p.step, p.loss) for p in points], across, upward, "training"),
        select=_line([(p.step, p.select_loss) for p in points], across, upward, "select"),
        x_ticks=_ticks(across),
        y_ticks=tuple(Tick(100 - t.at, t.text) for t in _ticks(upward)),
        best=None if best is None else Mark(across.percent(best), f"best: step {best:,}"),
        resumed=_resumed(facts.status.attempts, across),
        summary=_summary(points, best),
        overfitting=_overfitting(facts.status),
        gap=_gap(facts.evaluation),
    )


def _overfitting(status: JobStatus) -> str:
    kind = ConditionType.OVERFITTING
    found = next((c for c in status.conditions if c.type is kind and c.status == "True"), None)
    return "" if found is None else f"It began to learn its rows by heart. {found.message}"


def _gap(report: EvaluationReport | None) -> str:
    if report is None or report.generalization is None:
        return ""
    found = report.generalization
    return (
        f"At the best checkpoint the loss is {figures.interval(found.train_loss)} on "
        f"{figures.counted(found.train_rows, 'training row')} and "
        f"{figures.interval(found.select_loss)} on the {figures.count(found.select_rows)} select "
        f"rows, asked alike: a generalization gap of {figures.interval(found.gap)}."
    )


def best_step(facts: PageFacts) -> int | None:
    """The step of the best checkpoint: the one evaluated, else the lowest select loss so far."""
    if facts.evaluation is not None:
        return facts.evaluation.checkpoint_step
    curve = facts.status.progress.curve if facts.status.progress is not None else ()
    scored = [(p.select_loss, p.step) for p in curve if p.select_loss is not None]
    return min(scored)[1] if scored else None


def _line(
    values: Sequence[tuple[int, float | None]], across: Axis, upward: Axis, name: str
) -> Line:
    return Line(
        tuple(
            Dot(
                across.percent(step),
                round(100 - upward.percent(loss), 3),
                f"step {figures.count(step)}: {name} loss {figures.score(loss)}",
            )
            for step, loss in values
            if loss is not None
        )
    )


def _ticks(marks: Axis) -> tuple[Tick, ...]:
    return tuple(
        Tick(marks.percent(value), figures.places(value, marks.decimals))
        for value in marks.ticks
        if marks.low <= value <= marks.high
    )


def _resumed(attempts: Sequence[AttemptStatus], across: Axis) -> tuple[Mark, ...]:
    training = [a for a in attempts if a.step is Step.TRAIN]
    return tuple(
        Mark(across.percent(a.marks.resumed_from_step), f"attempt {a.number}")
        for a in training
        if a.marks is not None
        and a.marks.resumed_from_attempt is not None
        and a.marks.resumed_from_step <= across.high
    )


def _summary(points: Sequence[CurvePoint], best: int | None) -> str:
    train = [p for p in points if p.loss is not None]
    select = [p for p in points if p.select_loss is not None]
    said = []
    if train:
        said.append(
            f"Training loss goes from {figures.score(train[0].loss)} at step {train[0].step:,} to "
            f"{figures.score(train[-1].loss)} at step {train[-1].step:,}."
        )
    if best is not None:
        of_best = next((p.select_loss for p in select if p.step == best), None)
        loss = "" if of_best is None else f", with loss {figures.score(of_best)} on the select rows"
        said.append(f"The best checkpoint is that of step {best:,}{loss}.")
    return " ".join(said)
