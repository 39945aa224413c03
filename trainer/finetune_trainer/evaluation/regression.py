"""All figures of a regressor: the model and its baselines on the same rows, with intervals.

Pure. Everything is computed with a weight for each row: the point values weigh each row once, a
bootstrap resample as often as it drew it, all predictors on the same draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_api.evaluationreport import GroupsReport
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import groups
from finetune_trainer.evaluation.intervals import row_draws
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.scores import Resampled, Scores

_MODEL_FIGURES = (Metric.RMSE, Metric.MAE, Metric.R_SQUARED, Metric.SPEARMAN)
_BASELINE_FIGURES = (Metric.RMSE, Metric.SPEARMAN)


@dataclass(frozen=True)
class NumberOutputs:
    """What model and baselines say about ``n`` test rows.

    ``groups`` numbers the group of each row from 0, or is unset where rows are the units.
    """

    truth: Floats
    model: Floats
    baselines: Mapping[Baseline, Floats]
    groups: Integers | None = None

    @property
    def units(self) -> int:
        """How many independent units there are."""
        return len(self.truth) if self.groups is None else len(np.unique(self.groups))


def score(outputs: NumberOutputs, resamples: int, seed: int) -> Scores:
    """Compute every figure; equal inputs and seed give equal figures, in any order of rows."""
    predicted = np.stack([outputs.model, *outputs.baselines.values()])
    order = np.lexsort([*predicted, outputs.truth])
    truth, predicted = outputs.truth[order], predicted[:, order]
    clusters = None if outputs.groups is None else outputs.groups[order]
    point = figures(truth, predicted, np.ones((1, len(truth))))
    chunks = [
        figures(truth, predicted, weights)
        for weights in row_draws(len(truth), clusters, resamples, np.random.default_rng(seed))
    ]
    drawn = {figure: np.concatenate([chunk[figure] for chunk in chunks]) for figure in point}

    resampled = Resampled({key: value[0] for key, value in point.items()}, drawn, outputs.units)
    return Scores(
        metrics=resampled.bounded(_MODEL_FIGURES),
        baselines=resampled.baselines(outputs.baselines, _BASELINE_FIGURES),
    )


def by_group(
    outputs: NumberOutputs, columns: Mapping[str, Sequence[str]]
) -> tuple[GroupsReport, ...]:
    """Compare groups of rows by the mean size of the error."""
    wrong = groups.of_rows(Metric.MAE, np.abs(outputs.model - outputs.truth), is_share=False)
    return groups.compare(columns, [wrong], cluster=outputs.groups)


def figures(truth: Floats, predicted: Floats, weights: Floats) -> dict[Metric, Floats]:
    """Each figure ``[draws, predictors]`` from ``[n]``, ``[predictors, n]`` and ``[draws, n]``.

    ``R_SQUARED`` is 1 - Σ(y - f)² / Σ(y - ȳ)², with the mean of the rows at hand, and 0 where they
    are all the same; ``ERROR_REDUCTION`` is of the squared error, against each predictor.
    """
    total = weights.sum(axis=1, keepdims=True)
    gaps = predicted - truth
    squared = weights @ np.square(gaps).T / total
    # Taken from their middle first: far from 0 the difference of two squares has no digits left.
    centered = (truth - truth.mean())[:, None]
    mean = weights @ centered / total
    variance = np.maximum(weights @ np.square(centered) / total - np.square(mean), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = np.where(variance > 0, 1.0 - squared / variance, 0.0)
        reduction = 1.0 - squared[:, :1] / squared
    ranks = weighted_ranks(truth, weights)
    return {
        Metric.RMSE: np.sqrt(squared),
        Metric.MAE: weights @ np.abs(gaps).T / total,
        Metric.R_SQUARED: explained,
        Metric.SPEARMAN: np.stack(
            [_correlation(ranks, weighted_ranks(one, weights), weights) for one in predicted],
            axis=1,
        ),
        Metric.ERROR_REDUCTION: reduction,
    }


def weighted_ranks(values: Floats, weights: Floats) -> Floats:
    """The middle rank of each value in each draw, ``[draws, n]``: a value occurs by its weight.

    As if each row stood there as often as it weighs; equal values share their middle rank.
    """
    distinct, place = np.unique(values, return_inverse=True)
    at = np.zeros((len(weights), len(distinct)))
    np.add.at(at.T, place, weights.T)
    ranks: Floats = (np.cumsum(at, axis=1) - (at - 1.0) / 2.0)[:, place]
    return ranks


def _correlation(one: Floats, other: Floats, weights: Floats) -> Floats:
    """Pearson's correlation in each draw; 0 where either is constant."""
    total = weights.sum(axis=1, keepdims=True)
    first = one - (weights * one).sum(axis=1, keepdims=True) / total
    second = other - (weights * other).sum(axis=1, keepdims=True) / total
    together = (weights * first * second).sum(axis=1)
    spread = np.sqrt((weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1))
    result: Floats = np.divide(together, spread, out=np.zeros_like(together), where=spread > 0)
    return result
