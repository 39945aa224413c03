"""What a step holds, counted without memory, is what a real step was seen to hold."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.linear import zero3_linear_wrap
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from finetune_api.datareport import Moment
from finetune_api.lora import Lora
from finetune_trainer.models.lora import adapt
from finetune_trainer.models.step_trace import Traced, trace_step
from harness.language import a_llama, llama_tokenizer

ROWS, LENGTH = 8, 32


def a_bert(hidden: float = 0.0, attention: float = 0.0) -> PreTrainedModel:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=LENGTH,
            hidden_dropout_prob=hidden,
            attention_probs_dropout_prob=attention,
        )
    )


def an_adapted_llama() -> torch.nn.Module:
    return adapt(a_llama(llama_tokenizer()), "base", Lora(rank=4), (), seed=1)


def inputs(rows: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.ones((rows, LENGTH), dtype=torch.long)
        for name in ("input_ids", "attention_mask")
    }


def traced(make: Any, *, language: bool = False, fused: bool = True) -> Traced:
    with torch.device("meta"):
        model = make()
    call = {"use_cache": False} if language else {}
    return Traced(
        model=model, inputs=inputs, tokens=LENGTH, per_token=language, call=call, fused=fused
    )


def peak(moments: tuple[Moment, ...], rows: int) -> int:
    return max(rows * one.row_bytes + one.fixed_bytes for one in moments)


def kept_by(model: torch.nn.Module, *, language: bool) -> int:
    """Bytes that autograd keeps of a real forward pass, those of the weights aside."""
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    call = {"use_cache": False} if language else {}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(**inputs(ROWS), **call).logits.flatten(0, -2)
        loss = cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))
    assert torch.isfinite(loss)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("make", "language"),
    [(a_bert, False), (lambda: a_bert(0.1, 0.1), False), (an_adapted_llama, True)],
    ids=["BERT", "BERT with dropout", "Llama with an adapter"],
)
def test_a_traced_peak_is_what_a_real_forward_pass_keeps_and_little_more(
    make: Any,
    language: bool,  # noqa: FBT001 - a column of the table
) -> None:
    trace = trace_step(traced(make, language=language, fused=False), element=4, recomputed=False)
    kept = kept_by(make(), language=language)
    # Besides, the peak holds copies of outputs, their gradients and what one operation needs.
    assert kept <= peak(trace.moments, ROWS) <= 1.4 * kept


def test_rows_and_weights_gradients_are_told_apart() -> None:
    model = a_bert()
    trace = trace_step(traced(a_bert), element=4, recomputed=False)
    gradients = 4 * sum(one.numel() for one in model.parameters())
    # What is left at last are the gradients, and what the first weight's own one needs.
    last = trace.moments[-1]
    assert last.exchanging
    assert gradients <= last.fixed_bytes <= 1.1 * gradients
    assert last.row_bytes * ROWS < 0.1 * peak(trace.moments, ROWS)


def test_half_precision_keeps_about_half() -> None:
    whole, half = (
        peak(trace_step(traced(a_bert), element=one, recomputed=False).moments, 1000)
        for one in (4, 2)
    )
    assert 0.45 < half / whole < 0.6


def test_activations_that_are_computed_again_are_not_kept() -> None:
    once, again = (
        peak(trace_step(traced(lambda: a_bert(0.1, 0.1)), element=4, recomputed=one).moments, 1000)
        for one in (False, True)
    )
    assert again < 0.6 * once


@pytest.mark.parametrize(
    ("hidden", "attention", "fewer"), [(0.0, 0.0, False), (0.1, 0.0, True), (0.0, 0.1, True)]
)
def test_a_gpu_keeps_a_byte_of_a_dropout_mask_and_no_scores(
    hidden: float,
    attention: float,
    fewer: bool,  # noqa: FBT001 - a column of the table
) -> None:
    gpu, cpu = (
        peak(
            trace_step(
                traced(lambda: a_bert(hidden, attention), fused=fused), element=4, recomputed=False
            ).moments,
            1000,
        )
        for fused in (True, False)
    )
    assert (gpu < cpu) is fewer


def test_with_zero_3_frozen_linear_layers_keep_what_they_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        # As DeepSpeed does where it shards weights.
        patch.setattr(torch.nn.functional, "linear", zero3_linear_wrap)
        kept = kept_by(an_adapted_llama(), language=True)
    model = traced(an_adapted_llama, language=True, fused=False)
    apart, gathered = (
        peak(trace_step(one, element=4, recomputed=False).moments, ROWS)
        for one in (model, replace(model, gathered=True))
    )
    assert apart < gathered
    assert kept <= gathered <= 1.4 * kept


class Chain(torch.nn.Module):
    """Three layers of 262,144 weights each, which ZeRO 3 shards, and a small one after them."""

    def __init__(self) -> None:
        super().__init__()
        self.large = torch.nn.ModuleList([torch.nn.Linear(512, 512) for _ in range(3)])
        self.head = torch.nn.Linear(512, 2)

    def forward(self, inputs: torch.Tensor) -> Any:
        for layer in self.large:
            inputs = layer(inputs).relu()
        return SimpleNamespace(logits=self.head(inputs))


def test_up_to_the_last_large_weight_there_are_outputs_of_the_layers_before_it() -> None:
    # Of the first what its activation kept, of the second also what that activation read.
    with torch.device("meta"):
        model = Chain()
    floats = Traced(model=model, inputs=lambda rows: {"inputs": torch.ones(rows, 512)}, tokens=1)
    found = trace_step(floats, element=4, recomputed=False).last_gathered
    assert found == Moment(row_bytes=3 * 512 * 4, fixed_bytes=0, exchanging=False)


def test_of_a_model_of_small_weights_nothing_is_gathered() -> None:
    assert trace_step(traced(a_bert), element=4, recomputed=False).last_gathered is None
