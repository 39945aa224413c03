"""Padded or packed, on any gang: a step's loss is Σ weight·nll / Σ weight of its rows alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.training.language_rows import (
    WITHOUT_CACHE,
    LanguageBatches,
    PackedRows,
    PackedStream,
    token_loss,
)
from finetune_trainer.training.packing import PackedPlan
from finetune_trainer.training.packing_proof import TOLERANCE, keeps_rows_apart, packing_gap
from finetune_trainer.training.plan import StepPlan
from finetune_trainer.training.rows import Padding, PreparedRows, StepStream, model_inputs
from harness.language import a_gpt2, a_llama, gpt2_tokenizer, llama_tokenizer

CAPACITY = 32
Maker = Callable[[PreTrainedTokenizerBase], PreTrainedModel]
SHAPES: dict[str, tuple[Maker, Callable[[], PreTrainedTokenizerBase]]] = {
    "gpt2": (a_gpt2, gpt2_tokenizer),
    "llama": (a_llama, llama_tokenizer),
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    make, tokenizer = SHAPES[request.param]
    return make(tokenizer())


def a_dataset() -> Dataset:
    """Rows of random tokens and weights, some of them the padding's id."""
    random = np.random.default_rng(2)
    rows = []
    for length in random.integers(4, 20, size=21):
        weights = random.choice([0.0, 0.5, 1.0], size=length)
        weights[0], weights[-1] = 0.0, 1.0
        ids = random.integers(0, 300, size=length)
        ids[-1] = 0
        rows.append({"input_ids": ids, "token_weights": weights, "weight": weights.sum()})
    return Dataset.from_list(rows)


BATCHES = LanguageBatches(Padding(pad_token_id=0))
ROWS = PreparedRows(a_dataset(), BATCHES)
CPU = torch.device("cpu")


def a_plan(ranks: int) -> StepPlan:
    return StepPlan(
        rows=len(ROWS),
        global_batch_size=8,
        micro_batch_size=2,
        accumulation_steps=4 // ranks,
        world_size=ranks,
        seed=3,
    )


def row_by_row(model: PreTrainedModel, step: int) -> float:
    """The step's loss by the model's plain outputs, one row at a time."""
    data, nll, weight = a_dataset(), 0.0, 0.0
    for number in a_plan(1).global_batch(step).tolist():
        ids = torch.tensor([data[number]["input_ids"]])
        likely = model(input_ids=ids).logits[0].log_softmax(-1)
        for place, one in enumerate(data[number]["token_weights"]):
            if place:
                nll -= one * float(likely[place - 1, ids[0, place]])
                weight += one
    return nll / weight


def streamed(model: PreTrainedModel, ranks: int, *, packed: bool) -> list[float]:
    losses = [0.0, 0.0, 0.0]
    for rank in range(ranks):
        stream = a_stream(ranks, rank, packed=packed)
        for number, batch in enumerate(stream):
            outputs = model(**model_inputs(batch), **WITHOUT_CACHE)
            part = (token_loss(outputs, batch) * batch["real"]).sum() / batch["batch_weight"]
            losses[number * 3 // len(stream)] += float(part)
    return losses


def packed_rows(ranks: int = 1) -> PackedRows:
    plan = PackedPlan.of(a_plan(ranks), ROWS.lengths, CAPACITY, steps=3)
    return PackedRows(rows=ROWS, collation=BATCHES, plan=plan)


def a_stream(
    ranks: int, rank: int = 0, first_step: int = 0, *, packed: bool
) -> StepStream | PackedStream:
    place: dict[str, Any] = {"rank": rank, "first_step": first_step, "total_steps": 3}
    if packed:
        return PackedStream(packed_rows(ranks), **place)
    return StepStream(ROWS, a_plan(ranks), **place)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ranks", [1, 2])
@torch.no_grad()
def test_the_loss_of_a_step_is_that_of_its_rows_alone(
    model: PreTrainedModel, ranks: int, *, packed: bool
) -> None:
    expected = [row_by_row(model, step) for step in range(3)]
    assert streamed(model, ranks, packed=packed) == pytest.approx(expected, abs=1e-5)


def test_what_is_padding_is_not_asked_of_its_id() -> None:
    batch, _ = ROWS.batch([0, 1, 2])
    ends = batch["attention_mask"].sum(1) - 1
    lines = torch.arange(3)
    assert (batch["input_ids"][lines, ends] == 0).all(), "a row ends in the padding's own id"
    assert (batch["token_weights"][lines, ends] == 1).all(), "and that is learned"
    assert (batch["token_weights"][batch["attention_mask"] == 0] == 0).all()


def test_packed_rows_go_without_a_mask_and_begin_at_position_zero() -> None:
    batch = BATCHES.packed(ROWS.columns([3, 4, 5]), [2, 1])
    assert "attention_mask" not in batch
    first = int(ROWS.lengths[3])
    positions = batch["position_ids"]
    assert positions[0, 0] == positions[0, first] == positions[1, 0] == 0
    assert positions.shape == batch["input_ids"].shape == batch["token_weights"].shape


def test_a_step_counts_each_rows_tokens_once() -> None:
    for packed in (False, True):
        tokens = sum(int(batch["tokens"]) for batch in a_stream(1, first_step=2, packed=packed))
        assert tokens == ROWS.lengths[a_plan(1).global_batch(2)].sum()


def test_a_model_that_keeps_packed_rows_apart_is_found_to(model: PreTrainedModel) -> None:
    assert packing_gap(model, packed_rows(), CPU) < TOLERANCE


def test_a_model_that_sees_over_the_borders_of_rows_is_found_to(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blind(torch.nn.Module):
        """Drops the positions, as an architecture that takes none does."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = a_llama(llama_tokenizer())

        def forward(self, input_ids: torch.Tensor, **_: object) -> object:
            return self.inner(input_ids=input_ids)

    assert packing_gap(Blind(), packed_rows(), CPU) > 10 * TOLERANCE
    assert not keeps_rows_apart(Blind(), packed_rows(), CPU)
    assert "the model sees over their borders" in caplog.text
