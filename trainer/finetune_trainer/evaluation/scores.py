"""All figures of one evaluation: the model and its baselines on the same rows, with intervals.

Pure: the step hands in labels and outputs, and writes what comes back into the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_api.report import BaselineScores, ClassScores, Interval, Metrics
from finetune_trainer.evaluation import metrics
from finetune_trainer.evaluation.intervals import (
    Outcomes,
    error_reduction,
    error_reduction_interval,
    interval,
    resampled_confusions,
    with_an_error,
)
from finetune_trainer.evaluation.metrics import Floats, Integers


@dataclass(frozen=True)
class RowOutputs:
    """What model and baselines say about ``n`` test rows of ``K`` classes.

    ``logits`` and each baseline's probabilities are ``[n, K]``, their columns in the order of
    ``names``; ``labels`` are columns; ``groups`` numbers the group of each row, if there are any.
    """

    names: tuple[str, ...]
    labels: Integers
    logits: NDArray[np.float32]
    baselines: Mapping[str, Floats]
    groups: Integers | None = None

    @property
    def outcomes(self) -> Outcomes:
        """The classes chosen: the model's first, then each baseline's."""
        chosen = [probability.argmax(axis=1) for probability in self.baselines.values()]
        return Outcomes(
            labels=self.labels,
            predicted=np.stack([self.logits.argmax(axis=1), *chosen]),
            classes=len(self.names),
            groups=self.groups,
        )


@dataclass(frozen=True)
class Scores:
    """The figures of the report that come from the rows alone."""

    metrics: Metrics
    per_class: tuple[ClassScores, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    baselines: tuple[BaselineScores, ...]


def score(outputs: RowOutputs, resamples: int, seed: int) -> Scores:
    """Compute every figure; equal inputs and seed give equal figures, in any order of rows."""
    outcomes = outputs.outcomes
    confusions = np.stack(
        [
            metrics.confusion_matrix(outcomes.labels, predicted, outcomes.classes)
            for predicted in outcomes.predicted
        ]
    )
    point = _figures(confusions)
    drawn = _resampled_figures(outcomes, resamples, seed)

    def bounded(figure: str, predictor: int) -> Interval:
        value = float(point[figure][predictor])
        return interval(value, drawn[figure][:, predictor], outcomes.units)

    return Scores(
        metrics=_model_metrics(outputs, [bounded(name, 0) for name in _MODEL_FIGURES]),
        per_class=metrics.class_scores(confusions[0], outputs.names),
        confusion_matrix=tuple(tuple(int(count) for count in row) for row in confusions[0]),
        baselines=tuple(
            BaselineScores(
                name=name,
                accuracy=bounded("accuracy", predictor),
                macro_f1=bounded("macro_f1", predictor),
                error_reduction=error_reduction_interval(
                    float(point["error_reduction"][predictor]),
                    drawn["error_reduction"][:, predictor],
                    outcomes.units,
                ),
            )
            for predictor, name in enumerate(outputs.baselines, start=1)
        ),
    )


_MODEL_FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc")


def _figures(confusions: NDArray[np.int64]) -> dict[str, Floats]:
    """Each figure of each predictor, ``[..., P]`` from ``[..., P, K, K]``; the model is first."""
    return {
        "accuracy": metrics.accuracy(confusions),
        "balanced_accuracy": metrics.balanced_accuracy(confusions),
        "macro_f1": metrics.macro_f1(confusions),
        "mcc": metrics.matthews(confusions),
        "error_reduction": error_reduction(confusions[..., :1, :, :], confusions),
    }


def _resampled_figures(outcomes: Outcomes, resamples: int, seed: int) -> dict[str, Floats]:
    """Each figure in each resample, ``[resamples, P]``."""
    random = np.random.default_rng(seed)
    chunks = [
        _figures(confusions)
        for confusions in resampled_confusions(with_an_error(outcomes), resamples, random)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _model_metrics(outputs: RowOutputs, bounded: list[Interval]) -> Metrics:
    log_probability = metrics.log_probabilities(outputs.logits)
    probability = np.exp(log_probability)
    accuracy, balanced, macro, correlation = bounded
    return Metrics(
        accuracy=accuracy,
        balanced_accuracy=balanced,
        macro_f1=macro,
        mcc=correlation,
        loss=metrics.negative_log_likelihood(log_probability, outputs.labels),
        expected_calibration_error=metrics.expected_calibration_error(probability, outputs.labels),
        brier=metrics.brier_score(probability, outputs.labels),
    )
