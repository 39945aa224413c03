"""A language model's figures: sums over rows divided once, paired with its base, and their ends."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finetune_trainer.evaluation.language_scores import LanguageOutputs, language_score
from finetune_trainer.evaluation.likelihood import RowLikelihoods

TOKENS = np.array([3, 1, 8, 2, 5, 4, 2, 7, 1, 6, 3, 9])
BYTES = TOKENS * 4 + 1


def likelihoods(nll_per_token: float, wrong: int, seed: int = 0) -> RowLikelihoods:
    noise = np.random.default_rng(seed).uniform(0.5, 1.5, size=len(TOKENS))
    misses = np.minimum(TOKENS, np.random.default_rng(seed).integers(0, wrong + 1, len(TOKENS)))
    return RowLikelihoods(nll=TOKENS * nll_per_token * noise, tokens=TOKENS, right=TOKENS - misses)


def outputs(**changes: object) -> LanguageOutputs:
    made = {"model": likelihoods(0.5, 1), "base": likelihoods(2.0, 4, seed=1), "text_bytes": BYTES}
    return LanguageOutputs(**(made | changes))  # type: ignore[arg-type]


def test_every_figure_is_a_sum_over_a_sum() -> None:
    given = outputs()
    found = language_score(given, 400, 7)
    nll, wrong = given.model.nll.sum(), int((TOKENS - given.model.right).sum())
    base_wrong = int((TOKENS - given.base.right).sum())
    close = pytest.approx
    assert found.model.loss.value == close(nll / TOKENS.sum())
    assert found.model.perplexity.value == close(math.exp(nll / TOKENS.sum()))
    assert found.model.bits_per_byte is not None
    assert found.model.bits_per_byte.value == close(nll / math.log(2) / BYTES.sum())
    assert found.model.token_accuracy.value == close(1 - wrong / TOKENS.sum())
    assert found.base.token_accuracy.value == close(1 - base_wrong / TOKENS.sum())
    assert found.error_reduction is not None
    assert found.error_reduction.value == close(1 - wrong / base_wrong)


def test_the_mean_of_rows_is_not_taken_for_the_mean_of_tokens() -> None:
    given = outputs()
    by_row = float(np.mean(given.model.nll / TOKENS))
    assert abs(language_score(given, 200, 7).model.loss.value - by_row) > 1e-3


def test_an_interval_holds_its_value_and_does_not_depend_on_the_order_of_rows() -> None:
    given = outputs()
    turned = LanguageOutputs(
        model=RowLikelihoods(given.model.nll[::-1], TOKENS[::-1], given.model.right[::-1]),
        base=RowLikelihoods(given.base.nll[::-1], TOKENS[::-1], given.base.right[::-1]),
        text_bytes=BYTES[::-1],
    )
    one, other = language_score(given, 400, 7), language_score(turned, 400, 7)
    for name in ("loss", "perplexity", "bits_per_byte", "token_accuracy"):
        first, second = getattr(one.model, name), getattr(other.model, name)
        assert first.low < first.value < first.high
        assert (first.low, first.high) == pytest.approx((second.low, second.high))


def test_model_and_base_are_drawn_together() -> None:
    same = likelihoods(0.5, 2)
    found = language_score(outputs(model=same, base=same), 400, 7)
    assert found.error_reduction is not None
    assert (found.error_reduction.low, found.error_reduction.high) == (0, 0)


def test_groups_are_the_units_where_there_are_any() -> None:
    assert language_score(outputs(groups=np.arange(12) // 6), 200, 7).model.loss.low is None
    alone = language_score(outputs(groups=np.arange(12)), 400, 7)
    assert alone.model.loss == language_score(outputs(), 400, 7).model.loss


def test_a_faultless_sample_is_not_taken_for_certainty() -> None:
    perfect = RowLikelihoods(nll=TOKENS * 0.01, tokens=TOKENS, right=TOKENS)
    found = language_score(outputs(model=perfect), 400, 7).model.token_accuracy
    assert found.value == found.high == 1
    assert found.low is not None
    assert found.low < 1


def test_errors_can_not_be_removed_from_a_base_that_makes_none() -> None:
    perfect = RowLikelihoods(nll=TOKENS * 0.01, tokens=TOKENS, right=TOKENS)
    assert language_score(outputs(base=perfect), 400, 7).error_reduction is None


def test_bits_per_byte_need_bytes() -> None:
    assert language_score(outputs(text_bytes=np.zeros(12)), 200, 7).model.bits_per_byte is None
