"""What a language model is scored by: each row's own sums, in bounded memory, and its answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from finetune_trainer.errors import UsageError
from finetune_trainer.evaluation import likelihood
from finetune_trainer.evaluation.continuations import Asked, asked, chosen_rows, continued
from finetune_trainer.evaluation.likelihood import row_likelihoods
from finetune_trainer.training.language_rows import LanguageBatches
from finetune_trainer.training.rows import Padding
from harness.language import a_llama, llama_tokenizer

MODEL = a_llama(llama_tokenizer())


def a_dataset() -> list[dict[str, Any]]:
    random = np.random.default_rng(4)
    made = []
    for number, length in enumerate(random.integers(3, 30, size=17)):
        weights = random.choice([0.0, 0.5, 1.0], size=length)
        weights[0], weights[-1] = 0.0, 1.0
        ids = random.integers(0, 300, size=length)
        made.append({
            "row_id": str(number), "input_ids": ids.tolist(),
            "token_weights": weights.tolist(), "weight": weights.sum(),
        })  # fmt: skip
    return made


DATA = a_dataset()
ROWS = Dataset.from_list(DATA)
BATCHES = LanguageBatches(Padding(pad_token_id=0))


@torch.no_grad()
def test_each_row_is_scored_as_it_is_alone_whatever_the_batches() -> None:
    one, other = (row_likelihoods(MODEL, ROWS, BATCHES, logits) for logits in (1 << 27, 1))
    for place, row in enumerate(DATA):
        ids = torch.tensor([row["input_ids"]])
        likely = MODEL(input_ids=ids).logits[0].double().log_softmax(-1)
        counted = [n for n, weight in enumerate(row["token_weights"]) if n and weight > 0]
        nll = -sum(float(likely[n - 1, ids[0, n]]) for n in counted)
        right = sum(int(likely[n - 1].argmax()) == int(ids[0, n]) for n in counted)
        for found in (one, other):
            assert found.nll[place] == pytest.approx(nll, abs=1e-4)
            assert (found.tokens[place], found.right[place]) == (len(counted), right)


def test_no_more_logits_are_made_at_once_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    sums = likelihood._sums

    def watched(logits: torch.Tensor, batch: Any) -> Any:
        widths.append(logits.numel())
        return sums(logits, batch)

    monkeypatch.setattr(likelihood, "_sums", watched)
    limit = 60 * int(MODEL.config.vocab_size)
    row_likelihoods(MODEL, ROWS, BATCHES, limit)
    assert len(widths) > 1
    assert max(widths) <= limit


def test_a_model_that_diverged_is_told_of() -> None:
    broken = a_llama(llama_tokenizer())
    broken.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UsageError, match=r"17 of 17 test rows .*: the training diverged"):
        row_likelihoods(broken, ROWS, BATCHES)


def test_a_row_is_asked_up_to_its_last_answer_and_a_text_up_to_its_middle() -> None:
    assert asked([1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 1, 1]) == Asked((1, 2, 3, 4), (5, 6))
    assert asked([1, 2, 3, 4, 5], [0, 0, 1, 1, 0]) == Asked((1, 2), (3, 4))
    assert asked([1, 2, 3, 4, 5], [0, 1, 1, 1, 1]) == Asked((1, 2), (3, 4, 5))
    assert asked([1, 2, 3, 4, 5], [1, 1, 1, 1, 1]) == Asked((1, 2), (3, 4, 5))


def stopping_at(*stops: int) -> PreTrainedModel:
    model = a_llama(llama_tokenizer())
    assert model.generation_config is not None
    model.generation_config.eos_token_id = list(stops)
    model.generation_config.pad_token_id = 2
    return model


def test_answers_are_greedy_and_end_at_a_stop_or_for_want_of_room() -> None:
    prompt = [1, 20, 30]
    free = continued(stopping_at(419), prompt, room=20)
    assert len(free) == 20
    ids = [*prompt]
    for _ in range(3):
        ids.append(int(MODEL(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert free[:3] == tuple(ids[3:])
    stop = free[2]
    assert continued(stopping_at(stop), prompt, room=20) == free[: free.index(stop) + 1]


def test_an_answer_stays_within_the_models_positions() -> None:
    model = stopping_at(419)
    assert len(continued(model, range(2, 122), room=20)) == 128 - 120
    assert continued(model, range(2, 130), room=20) == ()


def test_an_answer_has_room_for_somewhat_more_than_is_expected() -> None:
    assert Asked((1,), (40, 2)).room == 20
    assert Asked((1,), tuple(range(500))).room == 256


def test_rows_to_read_are_spread_over_all() -> None:
    assert chosen_rows(100, 4) == [0, 33, 66, 99]
    assert chosen_rows(2, 4) == [0, 1]
