"""How rows' variety is counted: by their families of near copies, and by their words."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.text_likeness import word_codes
from finetune_trainer.data.variety import effective_number, lexical_diversity, variety

SIZES = st.lists(st.integers(1, 500), min_size=1, max_size=40)


@given(SIZES)
def test_rows_count_for_no_more_than_their_families_and_for_one_at_least(sizes: list[int]) -> None:
    assert 1 <= effective_number(sizes) <= len(sizes) + 1e-9


@given(st.integers(1, 50), st.integers(1, 50))
def test_families_of_one_size_count_each(size: int, number: int) -> None:
    assert effective_number([size] * number) == pytest.approx(number)


def test_a_family_that_holds_nearly_all_leaves_little_more_than_one_row() -> None:
    assert effective_number([9_990, *[1] * 10]) < 1.02
    # By hand: ½, ¼ and ¼ have an entropy of 1.5 bits.
    assert effective_number([2, 1, 1]) == pytest.approx(2**1.5)


def test_different_words_in_a_sample_are_those_that_a_draw_finds() -> None:
    words = [f"w{number}" for number in range(60) for _ in range(1 + number % 7)]
    counts = np.asarray([1 + number % 7 for number in range(60)])
    chance = random.Random(5)
    drawn = [len(set(chance.sample(words, 42))) / 42 for _ in range(4_000)]
    assert lexical_diversity(counts) == pytest.approx(np.mean(drawn), abs=0.003)


@pytest.mark.parametrize(
    ("counts", "share"),
    [([1] * 42, 1.0), ([42], 1 / 42), ([21, 21], 2 / 42), ([1] * 41, None), ([1] * 5_000, 1.0)],
)
def test_diversity_at_its_ends(counts: list[int], share: float | None) -> None:
    assert lexical_diversity(np.asarray(counts)) == pytest.approx(share)


def test_ten_times_as_many_texts_of_one_kind_are_as_diverse() -> None:
    chance = random.Random(1)
    words = [f"w{number}" for number in range(3_000)]
    weights = [1 / (number + 1) for number in range(3_000)]
    few, many = (
        variety(
            [word_codes(" ".join(chance.choices(words, weights, k=20))) for _ in range(rows)], None
        )
        for rows in (300, 3_000)
    )
    assert few.lexical_diversity is not None
    assert many.lexical_diversity == pytest.approx(few.lexical_diversity, rel=0.02)
    # The plain ratio of types to tokens would have told them apart.
    assert few.distinct_words / few.words > 2 * many.distinct_words / many.words


def test_words_are_counted_and_what_stands_between_them_is_not() -> None:
    told = variety([word_codes("it's fine, it's good!"), word_codes("fine ?")], [1, 1])
    assert (told.words, told.distinct_words) == (7, 4)
    assert told.effective_rows == pytest.approx(2)
    assert variety([b""], None).words == 0
