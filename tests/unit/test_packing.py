"""Packing: every row of a step once, in as few sequences as need be, the same on any gang."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.training.packing import PackedPlan, best_fit, short_fit
from finetune_trainer.training.plan import StepPlan

LENGTHS = np.random.default_rng(5).integers(2, 60, size=57)


def a_plan(*, ranks: int = 1, micro: int = 2) -> StepPlan:
    return StepPlan(
        rows=len(LENGTHS),
        global_batch_size=16,
        micro_batch_size=micro,
        accumulation_steps=16 // micro // ranks,
        world_size=ranks,
        seed=1,
    )


@given(st.lists(st.integers(1, 64), max_size=80))
def test_every_item_is_in_one_bin_and_no_bin_overflows(items: list[int]) -> None:
    lengths = np.asarray(items, dtype=np.int64)
    bins = best_fit(lengths, 64)
    assert sorted(place for one in bins for place in one) == list(range(len(items)))
    assert all(lengths[one].sum() <= 64 for one in bins)
    # Two bins that would fit into one: a better fit was passed over.
    loads = sorted(int(lengths[one].sum()) for one in bins)
    assert len(loads) < 2 or loads[0] + loads[1] > 64


def test_the_fullest_bin_with_room_is_taken() -> None:
    assert best_fit(np.array([6, 5, 4, 3, 2]), 10) == [[0, 2], [1, 3, 4]]


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=80),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_a_short_fit_has_all_items_and_takes_no_longer_than_the_fewest_bins(
    items: list[int], ranks: int, spare: int
) -> None:
    lengths = np.asarray(items, dtype=np.int64)
    fewest = best_fit(lengths, 64)
    bins = short_fit(lengths, 64, ranks=ranks, most=len(fewest) + spare)
    assert sorted(place for one in bins for place in one) == list(range(len(items)))
    assert len(bins) <= len(fewest) + spare
    longest = [max(int(lengths[one].sum()) for one in fitted) for fitted in (bins, fewest)]
    assert max(longest) <= 64
    # What the first rank computes, one after the other, attention included.
    cost = [
        len(range(0, len(fitted), ranks)) * long * (128 + long)
        for fitted, long in zip((bins, fewest), longest, strict=True)
    ]
    assert cost[0] <= cost[1]


@pytest.mark.parametrize(
    ("ranks", "most", "shared"), [(1, 2, [6, 6]), (1, 4, [3, 3, 3, 3]), (3, 6, [2] * 6)]
)
def test_a_token_has_as_few_to_attend_to_as_there_are_places_for(
    ranks: int, most: int, shared: list[int]
) -> None:
    lengths = np.full(12, 10)
    assert [len(one) for one in best_fit(lengths, 100)] == [10, 2]
    assert [len(one) for one in short_fit(lengths, 100, ranks=ranks, most=most)] == shared


def test_sequences_without_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match="2 sequences are more than the 1 that have a place"):
        short_fit(np.full(12, 10), 100, ranks=1, most=1)


def test_an_item_longer_than_a_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="an item of 11 is longer than the capacity 10"):
        best_fit(np.array([3, 11]), 10)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_a_packed_step_has_the_rows_of_the_unpacked_one_on_any_gang(ranks: int, micro: int) -> None:
    plan = a_plan(ranks=ranks, micro=micro)
    packed = PackedPlan.of(plan, LENGTHS, 64, steps=8)
    for step in range(8):
        shares = [
            packed.micro_batch(step, number, rank)
            for number in range(packed.accumulation_steps)
            for rank in range(ranks)
        ]
        rows = [
            row
            for share in shares
            if not share.filler
            for sequence in share.sequences
            for row in sequence
        ]
        assert sorted(rows) == sorted(plan.global_batch(step).tolist())
        assert all(1 <= len(share.sequences) <= micro for share in shares)
        assert all(LENGTHS[list(one)].sum() <= 64 for share in shares for one in share.sequences)


def test_no_more_micro_batches_are_made_than_the_fullest_step_needs() -> None:
    packed = PackedPlan.of(a_plan(), LENGTHS, 64, steps=8)
    needed = [len(best_fit(LENGTHS[a_plan().global_batch(step)], 64)) for step in range(8)]
    assert packed.accumulation_steps == -(-max(needed) // 2) < a_plan().accumulation_steps


def test_fill_is_the_share_of_tokens_in_padded_sequences() -> None:
    plan = StepPlan(
        rows=2, global_batch_size=2, micro_batch_size=2, accumulation_steps=1, world_size=1, seed=0
    )
    assert PackedPlan.of(plan, np.array([30, 50]), 64, steps=1).fill(1) == 80 / 100
