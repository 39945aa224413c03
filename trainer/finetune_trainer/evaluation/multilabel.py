"""All figures of a classifier of several labels: the model and its baselines on the same rows.

Pure. Answers are yes or no for each row and label, yes from ``THRESHOLD`` on, or from tuned
thresholds where there are such. As in ``regression``, each row has a weight: 1 for the point
values, and how often it was drawn in a resample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluationreport import ClassScores, GroupsReport
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import groups
from finetune_trainer.evaluation.intervals import mean_interval, row_draws
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.scores import Resampled, Scores
from finetune_trainer.evaluation.thresholds import HALF

THRESHOLD = HALF

_MODEL_FIGURES = (Metric.MICRO_F1, Metric.MACRO_F1, Metric.EXACT_MATCH, Metric.LABEL_ACCURACY)
_BASELINE_FIGURES = (Metric.MICRO_F1, Metric.MACRO_F1)
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelOutputs:
    """What model and baselines say about ``n`` test rows of ``K`` labels.

    ``truth``, the model's ``logits`` and each baseline's probabilities are ``[n, K]``, their
    columns in the order of ``names``, as are the model's ``thresholds`` and those of baselines;
    ``groups`` numbers the group of each row, if there are any.
    """

    names: tuple[str, ...]
    truth: Flags
    logits: NDArray[np.floating]
    baselines: Mapping[Baseline, Floats]
    groups: Integers | None = None
    thresholds: Floats | None = None
    baseline_thresholds: Mapping[Baseline, Floats] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """How many independent units there are."""
        return len(self.truth) if self.groups is None else len(np.unique(self.groups))

    @property
    def probabilities(self) -> Floats:
        """The model's, ``[n, K]``."""
        return sigmoid(self.logits)

    @property
    def answers(self) -> Flags:
        """Yes or no, ``[predictors, n, K]``: the model first, then each baseline."""
        own = self.probabilities >= (THRESHOLD if self.thresholds is None else self.thresholds)
        told = (
            values >= self.baseline_thresholds.get(name, THRESHOLD)
            for name, values in self.baselines.items()
        )
        return np.stack([own, *told])


def sigmoid(logits: NDArray[np.floating]) -> Floats:
    """Probabilities in double precision."""
    exact: Floats = logits.astype(np.float64)
    result: Floats = np.exp(-np.logaddexp(0.0, -exact))
    return result


def logit(probabilities: Floats) -> Floats:
    """What ``sigmoid`` takes to these; of certainty the farthest number that is finite."""
    smallest = np.finfo(np.float64).tiny
    log, log_not = (np.log(np.maximum(p, smallest)) for p in (probabilities, 1.0 - probabilities))
    result: Floats = log - log_not
    return result


def score(outputs: LabelOutputs, resamples: int, seed: int) -> Scores:
    """Compute every figure; equal inputs and seed give equal figures, in any order of rows."""
    answers = outputs.answers
    told = np.concatenate([outputs.truth[None], answers]).transpose(0, 2, 1)
    last = () if outputs.groups is None else (outputs.groups,)
    order = np.lexsort((*last, *told.reshape(-1, len(outputs.truth))))
    truth, answers = outputs.truth[order], answers[:, order]
    clusters = None if outputs.groups is None else outputs.groups[order]
    point = figures(truth, answers, np.ones((1, len(truth))))

    def drawn(told: Flags) -> dict[Metric, Floats]:
        random = np.random.default_rng(seed)
        chunks = [
            figures(truth, told, weights)
            for weights in row_draws(len(truth), clusters, resamples, random)
        ]
        return {figure: np.concatenate([chunk[figure] for chunk in chunks]) for figure in point}

    resampled = Resampled(
        {key: value[0] for key, value in point.items()},
        drawn(answers),
        outputs.units,
        drawn(with_one_more_error(truth, answers)),
    )
    losses = negative_log_likelihood(outputs.logits, outputs.truth)
    return Scores(
        metrics={
            **resampled.bounded(_MODEL_FIGURES),
            Metric.LOSS: mean_interval(losses, outputs.groups),
        },
        per_class=label_scores(outputs.names, truth, answers[0]),
        baselines=resampled.baselines(outputs.baselines, _BASELINE_FIGURES),
    )


def with_one_more_error(truth: Flags, answers: Flags) -> Flags:
    """The answers with one of the rarest label wrong, for each who is right about one.

    Low ends come from these: see ``intervals.with_one_more_error``.
    """
    changed = answers.copy()
    there = truth.sum(axis=0)
    label = int(np.where(there > 0, there, len(truth) + 1).argmin())
    rows = np.lexsort((-(answers == truth)[:, :, label].sum(axis=0), ~truth[:, label]))
    for told in changed:
        right = rows[told[rows, label] == truth[rows, label]]
        if len(right):
            told[right[0], label] = not truth[right[0], label]
    return changed


def by_group(
    outputs: LabelOutputs, columns: Mapping[str, Sequence[str]]
) -> tuple[GroupsReport, ...]:
    """Compare groups of rows by the share of their answers that are right, and by rates."""
    truth, told = outputs.truth, outputs.answers[0]
    right = groups.of_rows(Metric.LABEL_ACCURACY, (told == truth).mean(axis=1), is_share=False)
    return groups.compare(
        columns,
        [right, *groups.rates(outputs.names, truth, told)],
        list(groups.gaps(outputs.names, truth, told)),
        outputs.groups,
    )


def figures(truth: Flags, answers: Flags, weights: Floats) -> dict[Metric, Floats]:
    """Each figure ``[draws, predictors]`` from ``[n, K]``, ``[P, n, K]`` and ``[draws, n]``.

    F1 is 2·hits / (labels there are + labels told), 0 where a label is in neither; the macro one is
    the mean over the labels that are in either. ``ERROR_REDUCTION`` is of the wrong answers.
    """
    total = weights.sum(axis=1, keepdims=True)
    right = answers == truth
    hits = _weighed(weights, answers & truth)
    involved = _weighed(weights, answers) + (weights @ truth)[:, None]
    wrong = _weighed(weights, ~right).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        reduction = 1.0 - wrong[:, :1] / wrong
    f1 = _ratio(2 * hits, involved)
    return {
        Metric.MICRO_F1: _ratio(2 * hits.sum(axis=-1), involved.sum(axis=-1)),
        Metric.MACRO_F1: _ratio(f1.sum(axis=-1), (involved > 0).sum(axis=-1)),
        Metric.EXACT_MATCH: weights @ right.all(axis=-1).T / total,
        Metric.LABEL_ACCURACY: 1.0 - wrong / (total * truth.shape[1]),
        Metric.ERROR_REDUCTION: reduction,
    }


def negative_log_likelihood(logits: NDArray[np.floating], truth: Flags) -> Floats:
    """Mean of -log p(truth) over the labels of each row, in nats."""
    exact = logits.astype(np.float64)
    result: Floats = np.logaddexp(0.0, np.where(truth, -exact, exact)).mean(axis=1)
    return result


def label_scores(names: tuple[str, ...], truth: Flags, told: Flags) -> tuple[ClassScores, ...]:
    """Precision, recall, F1 and support of each label; 0 where a denominator is empty."""
    hits, there, said = (truth & told).sum(axis=0), truth.sum(axis=0), told.sum(axis=0)
    precision, recall = _ratio(hits, said), _ratio(hits, there)
    f1 = _ratio(2 * hits, there + said)
    return tuple(
        ClassScores(
            label=name,
            precision=float(precision[place]),
            recall=float(recall[place]),
            f1=float(f1[place]),
            support=int(there[place]),
        )
        for place, name in enumerate(names)
    )


def _weighed(weights: Floats, flags: Flags) -> Floats:
    """How often each label is flagged, ``[draws, predictors, K]``."""
    return np.stack([weights @ one for one in flags], axis=1)


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """``part / whole``, and 0 where the whole is empty."""
    numerator, denominator = part.astype(np.float64), whole.astype(np.float64)
    result: Floats = np.divide(
        numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0
    )
    return result
