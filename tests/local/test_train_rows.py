"""Rows as tensors: padded by their masks, scored once each, streamed from any step on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.errors import DataError
from finetune_trainer.training.plan import StepPlan
from finetune_trainer.training.rows import (
    ClassBatches,
    Padding,
    PreparedRows,
    StepStream,
    scoring_batches,
)

PAD = 99
# Each example writes a table, so fewer of them are made than elsewhere.
few = settings(max_examples=40, deadline=None)


def rows_of(lengths: list[int]) -> PreparedRows:
    """Rows of these lengths; a row's tokens are its own number plus 100, its label the parity."""
    table = {
        "row_id": [f"r{number}" for number in range(len(lengths))],
        "input_ids": [[100 + number] * length for number, length in enumerate(lengths)],
        "attention_mask": [[1] * length for length in lengths],
        "label": [number % 2 for number in range(len(lengths))],
        "group": [""] * len(lengths),
    }
    return PreparedRows(Dataset.from_dict(table), ClassBatches(Padding(PAD)))


LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=40)


@few
@given(LENGTHS, st.integers(1, 4), st.integers(1, 6))
def test_every_row_is_scored_on_one_rank_and_ranks_make_as_many_batches(
    lengths: list[int], world_size: int, batch_size: int
) -> None:
    rows, scored, batches_of_rank = rows_of(lengths), [], set()
    for rank in range(world_size):
        batches = list(
            scoring_batches(rows, batch_size=batch_size, rank=rank, world_size=world_size)
        )
        batches_of_rank.add(len(batches))
        assert all(len(batch["labels"]) == batch_size for batch, _ in batches)
        scored += [int(batch["input_ids"][i, 0]) for batch, real in batches for i in range(real)]
    assert sorted(scored) == [100 + number for number in range(len(lengths))]
    assert len(batches_of_rank) == 1


@few
@given(LENGTHS)
def test_a_mask_covers_a_rows_tokens_and_nothing_of_the_padding(lengths: list[int]) -> None:
    batch, found = rows_of(lengths).batch(range(len(lengths)))
    assert found.tolist() == lengths
    assert batch["input_ids"].shape == (len(lengths), max(lengths))
    assert batch["attention_mask"].sum(dim=1).tolist() == lengths
    assert torch.equal(batch["input_ids"] == PAD, batch["attention_mask"] == 0)
    assert batch["labels"].tolist() == [number % 2 for number in range(len(lengths))]


def test_lengths_are_rounded_up_where_asked() -> None:
    rows = rows_of([3, 5])
    rows = PreparedRows(rows._dataset, ClassBatches(Padding(PAD, multiple_of=8)))
    assert rows.batch([0, 1])[0]["input_ids"].shape == (2, 8)


@few
@given(LENGTHS, st.integers(0, 11), st.integers(1, 3))
def test_a_resumed_stream_is_the_rest_of_the_whole_one(
    lengths: list[int], first_step: int, world_size: int
) -> None:
    plan = StepPlan(
        rows=len(lengths),
        global_batch_size=4 * world_size,
        micro_batch_size=2,
        accumulation_steps=2,
        world_size=world_size,
        seed=3,
    )
    whole, rest = (
        StepStream(rows_of(lengths), plan, rank=0, first_step=step, total_steps=12)
        for step in (0, first_step)
    )
    assert len(whole) == len(rest) == 24
    pairs = zip(islice(whole, 2 * first_step, None), rest, strict=True)
    for expected, found in pairs:
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@few
@given(LENGTHS, st.integers(0, 20))
def test_weights_and_tokens_count_real_rows_only(lengths: list[int], step: int) -> None:
    plan = StepPlan(
        rows=len(lengths),
        global_batch_size=6,
        micro_batch_size=3,
        accumulation_steps=1,
        world_size=2,
        seed=3,
    )
    streams = (
        StepStream(rows_of(lengths), plan, rank=rank, first_step=step, total_steps=step + 1)
        for rank in range(2)
    )
    batches = [batch for stream in streams for batch in stream]
    real = [lengths[row] for row in plan.global_batch(step)]
    assert sum(float(batch["real"].sum()) for batch in batches) == len(real)
    assert {float(batch["batch_weight"]) for batch in batches} == {len(real)}
    assert sum(int(batch["tokens"]) for batch in batches) == sum(real)


def test_missing_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prepared rows"):
        PreparedRows.load(tmp_path / "train", ClassBatches(Padding(PAD)))
