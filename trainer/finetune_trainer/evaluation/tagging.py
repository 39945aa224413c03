"""All figures of a tagger of words: the model and its baselines on the same rows. Pure.

Everything is a sum over rows: spans there are, spans told and spans found, of each type, and words
whose tag is right. As in ``multilabel``, each row has a weight: 1 for the point values, and how
often it was drawn in a resample.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluationreport import ClassScores, GroupsReport, Interval
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import groups
from finetune_trainer.evaluation.intervals import mean_interval, row_draws
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.scores import Resampled, Scores
from finetune_trainer.evaluation.spans import Finding, Told

_MODEL_FIGURES = (
    Metric.MICRO_F1,
    Metric.MACRO_F1,
    Metric.PRECISION,
    Metric.RECALL,
    Metric.TOKEN_ACCURACY,
)
_BASELINE_FIGURES = (Metric.MICRO_F1, Metric.MACRO_F1, Metric.TOKEN_ACCURACY)
_THERE, _TOLD, _FOUND = range(3)


@dataclass(frozen=True, kw_only=True)
class TagOutputs:
    """What model and baselines say of the words of ``n`` rows.

    ``told`` has the model's tags first, then those of each of ``baselines``. ``nll`` is the summed
    negative log-likelihood (nats) of the tags of the ``read`` words of each row, both ``[n]``, and
    unset of who gives no probabilities; ``groups`` numbers the group of each row, if there are any.
    """

    truth: Sequence[Told]
    told: Sequence[Sequence[Told]]
    baselines: tuple[Baseline, ...]
    finding: Finding
    nll: Floats | None = None
    read: Integers | None = None
    groups: Integers | None = None

    @property
    def units(self) -> int:
        """How many independent units there are."""
        return len(self.truth) if self.groups is None else len(np.unique(self.groups))


@dataclass(frozen=True)
class TagCounts:
    """Counts of rows: ``spans`` is ``[P, n, T, 3]`` (there, told, found), by ``types``.

    ``right`` words are ``[P, n]``, all ``words`` ``[n]``.
    """

    types: tuple[str, ...]
    spans: Integers
    right: Integers
    words: Integers


def count(truth: Sequence[Told], told: Sequence[Sequence[Told]], finding: Finding) -> TagCounts:
    """Count spans and right words of each row and predictor."""
    there = [finding(tags) for tags in truth]
    said = [[finding(tags) for tags in rows] for rows in told]
    kinds = {kind for spans in (*there, *(s for rows in said for s in rows)) for *_, kind in spans}
    types = tuple(sorted(kinds))
    number = {kind: place for place, kind in enumerate(types)}
    spans = np.zeros((len(told), len(truth), len(types), 3), dtype=np.int64)
    right = np.zeros((len(told), len(truth)), dtype=np.int64)
    for predictor, rows in enumerate(said):
        for row, theirs in enumerate(rows):
            for which, chosen in enumerate((there[row], theirs, there[row] & theirs)):
                for *_, kind in chosen:
                    spans[predictor, row, number[kind], which] += 1
            pairs = zip(truth[row], told[predictor][row], strict=True)
            right[predictor, row] = sum(true == tag for true, tag in pairs)
    words = np.asarray([len(tags) for tags in truth], dtype=np.int64)
    return TagCounts(types, spans, right, words)


def score(outputs: TagOutputs, resamples: int, seed: int) -> Scores:
    """Compute every figure; equal inputs and seed give equal figures, in any order of rows."""
    counts = count(outputs.truth, outputs.told, outputs.finding)
    point = figures(counts, np.ones((1, len(counts.words))))
    drawn_from, groups = _sorted(_with_an_error(counts), outputs.groups)
    random = np.random.default_rng(seed)
    chunks = [
        figures(drawn_from, weights)
        for weights in row_draws(len(counts.words), groups, resamples, random)
    ]
    resampled = Resampled(
        {key: value[0] for key, value in point.items()},
        {figure: np.concatenate([chunk[figure] for chunk in chunks]) for figure in point},
        outputs.units,
    )
    return Scores(
        metrics={**resampled.bounded(_MODEL_FIGURES), **_loss(outputs)},
        per_class=type_scores(counts),
        baselines=resampled.baselines(outputs.baselines, _BASELINE_FIGURES),
    )


def by_group(outputs: TagOutputs, columns: Mapping[str, Sequence[str]]) -> tuple[GroupsReport, ...]:
    """Compare groups of rows by the F1 of all their spans, and by the words whose tag is right.

    That F1, 2·found / (there + told), is a ratio of sums over rows as well; rows in which no span
    is there or told say nothing of it.
    """
    counts = count(outputs.truth, outputs.told[:1], outputs.finding)
    there, told, found = counts.spans[0].sum(axis=1).T
    return groups.compare(
        columns,
        [
            groups.of_sums(Metric.MICRO_F1, 2 * found, there + told, is_share=True),
            groups.of_sums(Metric.TOKEN_ACCURACY, counts.right[0], counts.words, is_share=True),
        ],
        cluster=outputs.groups,
    )


def _loss(outputs: TagOutputs) -> dict[Metric, Interval]:
    if outputs.nll is None or outputs.read is None:
        return {}
    return {Metric.LOSS: mean_interval(outputs.nll, outputs.groups, outputs.read)}


def figures(counts: TagCounts, weights: Floats) -> dict[Metric, Floats]:
    """Each figure ``[draws, P]`` from counts and ``weights`` ``[draws, n]``.

    F1 is 2·found / (there + told), 0 where there is nothing; the macro one is the mean over the
    types that are there or told. ``ERROR_REDUCTION`` is of the words whose tag is wrong.
    """
    sums = np.einsum("dn,pntk->dptk", weights, counts.spans, optimize=True)
    there, told, found = (sums[..., which] for which in range(3))
    words = (weights @ counts.words)[:, None]
    wrong = weights @ (counts.words - counts.right).T
    f1 = _ratio(2 * found, there + told)
    with np.errstate(divide="ignore", invalid="ignore"):
        reduction = 1.0 - wrong[:, :1] / wrong
    return {
        Metric.MICRO_F1: _ratio(2 * found.sum(axis=-1), (there + told).sum(axis=-1)),
        Metric.MACRO_F1: _ratio(f1.sum(axis=-1), (there + told > 0).sum(axis=-1)),
        Metric.PRECISION: _ratio(found.sum(axis=-1), told.sum(axis=-1)),
        Metric.RECALL: _ratio(found.sum(axis=-1), there.sum(axis=-1)),
        Metric.TOKEN_ACCURACY: 1.0 - wrong / words,
        Metric.ERROR_REDUCTION: reduction,
    }


def type_scores(counts: TagCounts) -> tuple[ClassScores, ...]:
    """Precision, recall and F1 of the model's spans of each type; 0 where there is nothing."""
    there, told, found = counts.spans[0].sum(axis=0).T
    precision, recall = _ratio(found, told), _ratio(found, there)
    f1 = _ratio(2 * found, there + told)
    return tuple(
        ClassScores(
            label=kind,
            precision=float(precision[place]),
            recall=float(recall[place]),
            f1=float(f1[place]),
            support=int(there[place]),
        )
        for place, kind in enumerate(counts.types)
    )


def _with_an_error(counts: TagCounts) -> TagCounts:
    """One span and one word of a row are wrong for who makes no error: see ``intervals``.

    The span is of the rarest type, in the first row that has one.
    """
    spans, right = counts.spans.copy(), counts.right.copy()
    there = spans[0, :, :, _THERE]
    for predictor in range(len(spans)):
        own = spans[predictor]
        if there.any() and (own == own[..., :1]).all():
            support = there.sum(axis=0)
            kind = int(np.where(support > 0, support, there.sum() + 1).argmin())
            own[int(np.flatnonzero(there[:, kind])[0]), kind, _FOUND] -= 1
        if (right[predictor] == counts.words).all():
            right[predictor, int(counts.words.argmin())] -= 1
    return TagCounts(counts.types, spans, right, counts.words)


def _sorted(counts: TagCounts, groups: Integers | None) -> tuple[TagCounts, Integers | None]:
    """The rows in an order that follows from their counts (and groups) alone."""
    rows = len(counts.words)
    keys = [counts.words, *counts.right, *counts.spans.transpose(0, 2, 3, 1).reshape(-1, rows)]
    order = np.lexsort(keys if groups is None else [*keys, groups])
    return (
        TagCounts(
            counts.types, counts.spans[:, order], counts.right[:, order], counts.words[order]
        ),
        None if groups is None else groups[order],
    )


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """``part / whole``, and 0 where the whole is empty."""
    numerator, denominator = part.astype(np.float64), whole.astype(np.float64)
    result: Floats = np.divide(
        numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0
    )
    return result
