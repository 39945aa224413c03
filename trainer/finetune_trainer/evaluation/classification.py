"""All figures of a classifier: the model and its baselines on the same rows, with intervals.

Pure: the evidence hands in labels and outputs, and the step writes what comes back into the report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluationreport import GroupsReport, Interval
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import groups, metrics
from finetune_trainer.evaluation.intervals import (
    Outcomes,
    error_reduction,
    mean_interval,
    resampled_confusions,
    with_one_more_error,
)
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.scores import Resampled, Scores


@dataclass(frozen=True)
class RowOutputs:
    """What model and baselines say about ``n`` test rows of ``K`` classes.

    ``logits`` and each baseline's probabilities are ``[n, K]``, their columns in the order of
    ``names``; ``labels`` are columns; ``groups`` numbers the group of each row, if there are any.
    ``threshold`` is the probability from which the model tells the last of two classes, and
    ``baseline_thresholds`` has those of baselines; unset it is the likelier one.
    """

    names: tuple[str, ...]
    labels: Integers
    logits: NDArray[np.floating]
    baselines: Mapping[Baseline, Floats]
    groups: Integers | None = None
    threshold: float | None = None
    baseline_thresholds: Mapping[Baseline, float] = field(default_factory=dict)

    @property
    def outcomes(self) -> Outcomes:
        """The classes chosen: the model's first, then each baseline's."""
        own = np.exp(metrics.log_probabilities(self.logits))
        chosen = [
            tell(probabilities, self.baseline_thresholds.get(name))
            for name, probabilities in self.baselines.items()
        ]
        return Outcomes(
            labels=self.labels,
            predicted=np.stack([tell(own, self.threshold), *chosen]),
            classes=len(self.names),
            groups=self.groups,
        )


def tell(probabilities: Floats, threshold: float | None) -> Integers:
    """The class of each row: the likeliest, or of two the last from the threshold on."""
    if threshold is None:
        likeliest: Integers = probabilities.argmax(axis=1)
        return likeliest
    return (probabilities[:, 1] >= threshold).astype(np.int64)


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
    low = _resampled_figures(with_one_more_error(outcomes), resamples, seed)

    resampled = Resampled(point, drawn, outcomes.units, low)
    return Scores(
        metrics={
            **resampled.bounded(_MODEL_FIGURES),
            **_of_probabilities(outputs),
        },
        per_class=metrics.class_scores(confusions[0], outputs.names),
        confusion_matrix=tuple(tuple(int(count) for count in row) for row in confusions[0]),
        baselines=resampled.baselines(outputs.baselines, _BASELINE_FIGURES),
    )


def by_group(outputs: RowOutputs, columns: Mapping[str, Sequence[str]]) -> tuple[GroupsReport, ...]:
    """Compare groups of rows by accuracy and by the rates of each class, of two classes the last.

    What is true of one of two classes is true of the other, turned around.
    """
    outcomes, names = outputs.outcomes, outputs.names
    places = range(len(names) - 1 if len(names) == 2 else 0, len(names))
    truth = np.stack([outputs.labels == place for place in places], axis=1)
    told = np.stack([outcomes.predicted[0] == place for place in places], axis=1)
    shown = [names[place] for place in places]
    right = groups.of_rows(Metric.ACCURACY, outcomes.predicted[0] == outputs.labels, is_share=True)
    return groups.compare(
        columns,
        [right, *groups.rates(shown, truth, told)],
        list(groups.gaps(shown, truth, told)),
        outputs.groups,
    )


_MODEL_FIGURES = (Metric.ACCURACY, Metric.BALANCED_ACCURACY, Metric.MACRO_F1, Metric.MCC)
_BASELINE_FIGURES = (Metric.ACCURACY, Metric.MACRO_F1)


def _figures(confusions: NDArray[np.int64]) -> dict[Metric, Floats]:
    """Each figure of each predictor, ``[..., P]`` from ``[..., P, K, K]``; the model is first."""
    return {
        Metric.ACCURACY: metrics.accuracy(confusions),
        Metric.BALANCED_ACCURACY: metrics.balanced_accuracy(confusions),
        Metric.MACRO_F1: metrics.macro_f1(confusions),
        Metric.MCC: metrics.matthews(confusions),
        Metric.ERROR_REDUCTION: error_reduction(confusions[..., :1, :, :], confusions),
    }


def _resampled_figures(outcomes: Outcomes, resamples: int, seed: int) -> dict[Metric, Floats]:
    """Each figure in each resample, ``[resamples, P]``."""
    random = np.random.default_rng(seed)
    chunks = [
        _figures(confusions) for confusions in resampled_confusions(outcomes, resamples, random)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _of_probabilities(outputs: RowOutputs) -> dict[Metric, Interval]:
    log_probability = metrics.log_probabilities(outputs.logits)
    probability = np.exp(log_probability)
    losses = metrics.negative_log_likelihood(log_probability, outputs.labels)
    distances = metrics.brier_score(probability, outputs.labels)
    error = metrics.expected_calibration_error(probability, outputs.labels)
    return {
        Metric.LOSS: mean_interval(losses, outputs.groups),
        Metric.CALIBRATION_ERROR: Interval(value=error),
        Metric.BRIER: mean_interval(distances, outputs.groups),
    }
