"""95 % intervals hold what they are of in 92 to 98 of 100 samples, of every kind of figure.

Each case draws samples whose true figure is known, few errors, rare classes and few clusters among
them; ``test_intervals`` and ``test_contrasts`` have those of the same method that are not here.
"""

from collections.abc import Callable

import numpy as np
import pytest

from finetune_api.evaluationreport import Interval
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import classification, multilabel, regression
from finetune_trainer.evaluation.classification import RowOutputs
from finetune_trainer.evaluation.metrics import Integers
from finetune_trainer.evaluation.multilabel import LabelOutputs
from finetune_trainer.evaluation.regression import NumberOutputs
from finetune_trainer.evaluation.scores import Scores

SIMULATIONS = 250
RESAMPLES = 300
HELD = (0.92, 0.98)

Samples = Callable[[np.random.Generator, int], Scores]
Truths = dict[Metric, float]


def classified(
    labels: Integers, predicted: Integers, classes: int, groups: Integers | None = None
) -> Scores:
    outputs = RowOutputs(
        names=tuple("abcdef"[:classes]),
        labels=labels,
        logits=np.eye(classes, dtype=np.float32)[predicted],
        baselines={Baseline.MAJORITY: np.eye(classes)[0 * labels]},
        groups=groups,
    )
    return classification.score(outputs, RESAMPLES, seed=3)


def few_errors(random: np.random.Generator, rows: int) -> Scores:
    """Two classes, 3 % wrong."""
    labels = random.integers(0, 2, rows)
    wrong = random.random(rows) < 0.03
    return classified(labels, np.where(wrong, 1 - labels, labels), 2)


def rare_classes(random: np.random.Generator, rows: int) -> Scores:
    """Classes of 80, 15 and 5 %, a tenth of each taken for the next."""
    labels = random.choice(3, rows, p=[0.80, 0.15, 0.05])
    wrong = random.random(rows) < 0.1
    return classified(labels, np.where(wrong, (labels + 1) % 3, labels), 3)


_SHARES = np.array([0.80, 0.15, 0.05])
_TAKEN = 0.9 * _SHARES + 0.1 * np.roll(_SHARES, 1)
_RARE_MACRO_F1 = float((2 * 0.9 * _SHARES / (_SHARES + _TAKEN)).mean())


def clustered(random: np.random.Generator, clusters: int) -> Scores:
    """Two classes in clusters of ten rows, which mostly are right or wrong together."""
    cluster = np.repeat(np.arange(clusters), 10)
    labels = random.integers(0, 2, len(cluster))
    hard, own = random.random(clusters) < 0.2, random.random(len(cluster)) < 0.2
    wrong = np.where(random.random(len(cluster)) < 0.7, hard[cluster], own)
    return classified(labels, np.where(wrong, 1 - labels, labels), 2, cluster)


def several_labels(random: np.random.Generator, rows: int) -> Scores:
    """Three labels, each there for a third of the rows; one answer in ten is wrong."""
    truth = random.random((rows, 3)) < 1 / 3
    told = truth ^ (random.random((rows, 3)) < 0.1)
    outputs = LabelOutputs(
        names=("a", "b", "c"), truth=truth, logits=np.where(told, 4.0, -4.0), baselines={}
    )
    return multilabel.score(outputs, RESAMPLES, seed=3)


_SEVERAL_F1 = 2 * 0.3 / (1 / 3 + 0.3 + 1 / 15)


def numbers(random: np.random.Generator, rows: int) -> Scores:
    """A number of variance 2, of which the model knows half, and a baseline nothing."""
    known, rest = random.normal(size=(2, rows))
    outputs = NumberOutputs(
        truth=known + rest, model=known, baselines={Baseline.MEAN: np.zeros(rows)}
    )
    return regression.score(outputs, RESAMPLES, seed=3)


def clustered_numbers(random: np.random.Generator, clusters: int) -> Scores:
    """The same, in clusters of ten rows that share half of what there is to know."""
    cluster = np.repeat(np.arange(clusters), 10)
    shared, own = random.normal(size=(2, clusters)), random.normal(size=(2, len(cluster)))
    known, rest = (shared[:, cluster] + own) * 0.5**0.5
    outputs = NumberOutputs(
        truth=known + rest,
        model=known,
        baselines={Baseline.MEAN: np.zeros(len(cluster))},
        groups=cluster,
    )
    return regression.score(outputs, RESAMPLES, seed=3)


_NUMBERS: Truths = {
    Metric.RMSE: 1.0,
    Metric.MAE: (2 / np.pi) ** 0.5,
    Metric.R_SQUARED: 0.5,
    Metric.ERROR_REDUCTION: 0.5,
}


@pytest.mark.parametrize(
    ("draw", "units", "truths"),
    [
        (few_errors, 300, {Metric.ACCURACY: 0.97, Metric.MACRO_F1: 0.97}),
        (
            rare_classes,
            700,
            {
                Metric.ACCURACY: 0.9,
                Metric.BALANCED_ACCURACY: 0.9,
                Metric.MACRO_F1: _RARE_MACRO_F1,
            },
        ),
        (clustered, 20, {Metric.ACCURACY: 0.8, Metric.MACRO_F1: 0.8}),
        (clustered, 60, {Metric.ACCURACY: 0.8, Metric.ERROR_REDUCTION: 0.6}),
        (
            several_labels,
            150,
            {
                Metric.MICRO_F1: _SEVERAL_F1,
                Metric.MACRO_F1: _SEVERAL_F1,
                Metric.EXACT_MATCH: 0.9**3,
                Metric.LABEL_ACCURACY: 0.9,
            },
        ),
        (numbers, 150, _NUMBERS),
        (clustered_numbers, 50, _NUMBERS),
    ],
)
def test_an_interval_holds_the_truth_in_95_of_100_samples(
    draw: Samples, units: int, truths: Truths
) -> None:
    random = np.random.default_rng(21)
    held = dict.fromkeys(truths, 0)
    for _ in range(SIMULATIONS):
        scores = draw(random, units)
        for metric, truth in truths.items():
            held[metric] += _holds(_figure(scores, metric), truth)
    shares = {metric: count / SIMULATIONS for metric, count in held.items()}
    assert all(HELD[0] <= share <= HELD[1] for share in shares.values()), shares


def _figure(scores: Scores, metric: Metric) -> Interval:
    if metric is not Metric.ERROR_REDUCTION:
        return scores.metrics[metric]
    reduction = scores.baselines[0].error_reduction
    assert reduction is not None
    return reduction


def _holds(one: Interval, truth: float) -> bool:
    assert one.low is not None
    assert one.high is not None
    return one.low <= truth <= one.high
