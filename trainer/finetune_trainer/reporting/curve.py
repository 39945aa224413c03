"""A loss curve of bounded length, whatever the number of steps. No torch; used on both sides.

A rank keeps one in its checkpoints, the launcher one for ``/progress``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from finetune_api.report import CurvePoint

_LOSS_POINTS = 40
_SELECT_POINTS = 20


@dataclass
class Curve:
    """At most 60 points: 40 of the training loss, each the mean of a stretch, and 20 scores."""

    _stride: int = 1
    _losses: list[tuple[int, float]] = field(default_factory=list)
    _stretch: list[float] = field(default_factory=list)
    _newest: list[float] = field(default_factory=list)
    _scores: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def of(cls, points: Iterable[CurvePoint], *, stride: int) -> "Curve":
        """Take up a curve that a checkpoint kept; ``stride`` is the steps between its points."""
        curve = cls(_stride=stride)
        for point in points:
            if point.loss is not None:
                curve._losses.append((point.step, point.loss))
            if point.select_loss is not None:
                curve._scores.append((point.step, point.select_loss))
        return curve

    @property
    def stride(self) -> int:
        """Steps that one point of the training loss stands for."""
        return self._stride

    @property
    def newest_loss(self) -> float | None:
        """Mean of the newest steps, as many as a point stands for; None before the first.

        The last step of all may have a handful of rows, and its own loss says little.
        """
        newest = self._newest[-self._stride :]
        return sum(newest) / len(newest) if newest else None

    def add_loss(self, step: int, loss: float) -> None:
        """Add the training loss of a step."""
        # Twice as many as are asked for, since a point may soon stand for twice as many.
        self._newest = [*self._newest, loss][-2 * self._stride :]
        self._stretch.append(loss)
        if len(self._stretch) < self._stride:
            return
        self._losses.append((step, sum(self._stretch) / len(self._stretch)))
        self._stretch = []
        if len(self._losses) > _LOSS_POINTS:
            self._stretch = [self._losses.pop()[1]] * self._stride
            pairs = zip(self._losses[::2], self._losses[1::2], strict=True)
            self._losses = [(later[0], (earlier[1] + later[1]) / 2) for earlier, later in pairs]
            self._stride *= 2

    def add_score(self, step: int, select_loss: float) -> None:
        """Add the loss on the select rows; when there are many, every second older one goes."""
        self._scores.append((step, select_loss))
        if len(self._scores) > _SELECT_POINTS:
            self._scores = self._scores[::2]

    def points(self) -> tuple[CurvePoint, ...]:
        """The curve by step."""
        losses, scores = dict(self._losses), dict(self._scores)
        return tuple(
            CurvePoint(step=step, loss=losses.get(step), select_loss=scores.get(step))
            for step in sorted(losses.keys() | scores.keys())
        )
