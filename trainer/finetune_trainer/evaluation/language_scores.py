"""The figures of a language model and of its base on the same rows, with paired intervals. Pure.

Every figure is a ratio of sums over rows, so a resample needs no more of a row than its sums.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluationreport import GroupsReport, Interval
from finetune_api.tasks import Metric
from finetune_trainer.evaluation import groups
from finetune_trainer.evaluation.intervals import error_reduction_interval, interval
from finetune_trainer.evaluation.likelihood import RowLikelihoods
from finetune_trainer.evaluation.metrics import Floats, Integers

_CHUNK_NUMBERS = 8_000_000
_LARGEST_LOSS = 700.0
"""Nats; of more, the exponential is no finite number, which a report can't hold."""


@dataclass(frozen=True)
class LanguageOutputs:
    """What the model and its base say of the same ``n`` rows.

    ``text_bytes`` is the size in UTF-8 of the text that each row's counted tokens stand for;
    ``groups`` numbers the group of each row, if there are any.
    """

    model: RowLikelihoods
    base: RowLikelihoods
    text_bytes: Integers
    groups: Integers | None = None


@dataclass(frozen=True, kw_only=True)
class LanguageFigures:
    """A predictor's figures; ``error_reduction`` is the base's share of wrong tokens removed."""

    loss: Interval
    perplexity: Interval
    bits_per_byte: Interval | None
    token_accuracy: Interval


@dataclass(frozen=True, kw_only=True)
class LanguageScores:
    """The model's figures, its base's, and what the one removed of the other's errors."""

    model: LanguageFigures
    base: LanguageFigures
    error_reduction: Interval | None


def language_score(outputs: LanguageOutputs, resamples: int, seed: int) -> LanguageScores:
    """Compute every figure; equal inputs and seed give equal figures, in any order of rows."""
    sums = _row_sums(outputs)
    units = sums if outputs.groups is None else _by_group(sums, outputs.groups)
    # In an order of their own, so that the order of rows does not matter to what is drawn.
    units = units[np.lexsort(units.T)]
    point = _figures(sums.sum(axis=0))
    drawn = _figures(_resampled(_with_an_error(units), resamples, np.random.default_rng(seed)))

    def bounded(name: str) -> Interval:
        return interval(float(point[name]), drawn[name], len(units))

    def of(who: str) -> LanguageFigures:
        return LanguageFigures(
            loss=bounded(f"{who}_loss"),
            perplexity=bounded(f"{who}_perplexity"),
            bits_per_byte=bounded(f"{who}_bits") if outputs.text_bytes.sum() else None,
            token_accuracy=bounded(f"{who}_accuracy"),
        )

    return LanguageScores(
        model=of("model"),
        base=of("base"),
        error_reduction=error_reduction_interval(
            float(point["error_reduction"]), drawn["error_reduction"], len(units)
        ),
    )


def by_group(
    outputs: LanguageOutputs, columns: Mapping[str, Sequence[str]]
) -> tuple[GroupsReport, ...]:
    """Compare groups of rows by the tokens that are right and by the loss, over all their tokens.

    Of the latter, exp of a group's is its perplexity, and exp of a difference the ratio of two.
    """
    model = outputs.model
    return groups.compare(
        columns,
        [
            groups.of_sums(Metric.TOKEN_ACCURACY, model.right, model.tokens, is_share=True),
            groups.of_sums(Metric.LOSS, model.nll, model.tokens, is_share=False),
        ],
        cluster=outputs.groups,
    )


_TOKENS, _BYTES, _MODEL_NLL, _MODEL_WRONG, _BASE_NLL, _BASE_WRONG = range(6)


def _row_sums(outputs: LanguageOutputs) -> Floats:
    """What each row adds, ``[n, 6]``."""
    model, base = outputs.model, outputs.base
    columns = (
        model.tokens,
        outputs.text_bytes,
        model.nll,
        model.tokens - model.right,
        base.nll,
        base.tokens - base.right,
    )
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _by_group(sums: Floats, groups: Integers) -> Floats:
    _, numbers = np.unique(groups, return_inverse=True)
    grouped = np.zeros((int(numbers.max()) + 1, sums.shape[1]))
    np.add.at(grouped, numbers, sums)
    return grouped


def _with_an_error(units: Floats) -> Floats:
    """One token of the smallest unit is wrong for who makes no error: see ``intervals``."""
    changed = units.copy()
    smallest = int(units[:, _TOKENS].argmin())
    for wrong in (_MODEL_WRONG, _BASE_WRONG):
        if not units[:, wrong].any():
            changed[smallest, wrong] = 1
    return changed


def _resampled(units: Floats, resamples: int, random: np.random.Generator) -> Floats:
    """Sums over units drawn with replacement, ``[resamples, 6]``; both predictors on one draw."""
    count = len(units)
    chance = np.full(count, 1 / count)
    chunk = max(1, _CHUNK_NUMBERS // count)
    return np.concatenate(
        [
            random.multinomial(count, chance, size=min(chunk, resamples - start)) @ units
            for start in range(0, resamples, chunk)
        ]
    )


def _figures(sums: Floats) -> Mapping[str, NDArray[np.float64]]:
    """Each figure of sums ``[…, 6]``."""
    tokens, size = sums[..., _TOKENS], sums[..., _BYTES]
    model_loss, base_loss = sums[..., _MODEL_NLL] / tokens, sums[..., _BASE_NLL] / tokens
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return {
            "model_loss": model_loss,
            "base_loss": base_loss,
            "model_perplexity": np.exp(np.minimum(model_loss, _LARGEST_LOSS)),
            "base_perplexity": np.exp(np.minimum(base_loss, _LARGEST_LOSS)),
            "model_bits": sums[..., _MODEL_NLL] / np.log(2) / size,
            "base_bits": sums[..., _BASE_NLL] / np.log(2) / size,
            "model_accuracy": 1 - sums[..., _MODEL_WRONG] / tokens,
            "base_accuracy": 1 - sums[..., _BASE_WRONG] / tokens,
            "error_reduction": 1 - sums[..., _MODEL_WRONG] / sums[..., _BASE_WRONG],
        }
