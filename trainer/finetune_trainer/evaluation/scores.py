"""The figures of a report that come from the test rows alone, whatever the task. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.evaluationreport import (
    BaselineScores,
    Calibration,
    ClassScores,
    CounterfactualsReport,
    GroupsReport,
    Interval,
    Metrics,
)
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation.intervals import error_reduction_interval, interval
from finetune_trainer.evaluation.metrics import Floats


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the model is measured to be, and its baselines on the same rows.

    ``per_class`` and ``confusion_matrix`` are empty for a task that has no such thing. ``groups``
    have the contrasts of every class.
    """

    metrics: Metrics
    per_class: tuple[ClassScores, ...] = ()
    confusion_matrix: tuple[tuple[int, ...], ...] = ()
    baselines: tuple[BaselineScores, ...] = ()
    groups: tuple[GroupsReport, ...] = ()
    counterfactuals: CounterfactualsReport | None = None
    calibration: Calibration | None = None
    thresholds: Mapping[str, float] = field(default_factory=dict)
    baseline_thresholds: Mapping[Baseline, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Resampled:
    """Figures of several predictors on the same rows and the same draws; the model is the first.

    ``point`` has each figure's values ``[predictors]``, ``drawn`` those of the resamples,
    ``[draws, predictors]``; ``units`` is how many independent units were drawn from. ``low`` are
    the resamples that low ends are taken from, where they are others.
    """

    point: Mapping[Metric, Floats]
    drawn: Mapping[Metric, Floats]
    units: int
    low: Mapping[Metric, Floats] | None = None

    def bounded(self, figures: Iterable[Metric], predictor: int = 0) -> Metrics:
        """A predictor's figures with their intervals."""
        low = self.low or self.drawn
        return {
            figure: interval(
                float(self.point[figure][predictor]),
                self.drawn[figure][:, predictor],
                self.units,
                low[figure][:, predictor],
            )
            for figure in figures
        }

    def baselines(
        self, names: Iterable[Baseline], figures: Sequence[Metric]
    ) -> tuple[BaselineScores, ...]:
        """The figures of the baselines, and how much less the model errs than each."""
        return tuple(
            BaselineScores(
                name=name,
                metrics=self.bounded(figures, predictor),
                error_reduction=self._error_reduction(predictor),
            )
            for predictor, name in enumerate(names, start=1)
        )

    def _error_reduction(self, predictor: int) -> Interval | None:
        figure, low = Metric.ERROR_REDUCTION, self.low or self.drawn
        return error_reduction_interval(
            float(self.point[figure][predictor]),
            self.drawn[figure][:, predictor],
            self.units,
            low[figure][:, predictor],
        )
