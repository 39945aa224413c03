"""Scoring test rows: each exactly once, in its own place, whatever shares its batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from finetune_trainer.errors import UsageError
from finetune_trainer.evaluation.inference import batches_by_length, row_logits
from finetune_trainer.training.rows import ClassBatches, Padding

BATCHES = ClassBatches(Padding(pad_token_id=0))
WORDS = "the film story actor brilliant boring dull fresh with very old city".split()


@pytest.fixture(scope="module")
def classifier(tiny_model: Path) -> PreTrainedModel:
    torch.manual_seed(3)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=3, dtype=torch.float32
    )
    torch.nn.init.normal_(model.get_parameter("classifier.weight"), std=2.0)
    return model


def rows_of(tiny_model: Path, lengths: list[int]) -> Dataset:
    """Prepared rows of so many words each, no two alike."""
    chance = np.random.default_rng(1)
    texts = [" ".join(chance.choice(WORDS, length)) for length in lengths]
    encoded = AutoTokenizer.from_pretrained(tiny_model)(texts)
    return Dataset.from_dict(
        {
            "row_id": [f"r{place}" for place in range(len(texts))],
            "text": texts,
            **dict(encoded),
            "label": [0] * len(texts),
        }
    )


@given(
    st.lists(st.integers(0, 400), max_size=80).map(lambda sizes: np.array(sizes, dtype=np.int64)),
    st.integers(1, 2000),
    st.integers(1, 20),
)
def test_batches_are_a_partition_that_keeps_within_its_limits(
    lengths: np.ndarray, tokens: int, most: int
) -> None:
    batches = list(batches_by_length(lengths, tokens, most))
    places = np.concatenate(batches) if batches else np.array([], dtype=np.int64)
    assert sorted(places.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or len(batch) * max(lengths[batch]) <= tokens
    in_order = lengths[places].tolist()
    assert in_order == sorted(in_order, reverse=True)


def test_each_row_gets_the_logits_that_it_has_alone(
    tiny_model: Path, classifier: PreTrainedModel
) -> None:
    # 13 rows of ragged length in batches of at most 60 tokens: the last one is not full.
    rows = rows_of(tiny_model, [3, 40, 1, 7, 7, 25, 12, 2, 60, 5, 18, 1, 33])
    logits = row_logits(classifier, rows, BATCHES, batch_tokens=60)
    assert logits.shape == (13, 3)
    assert logits.dtype == np.float32
    classifier.train(mode=False)
    with torch.inference_mode():
        for place, row in enumerate(rows):
            alone = classifier(
                input_ids=torch.tensor([row["input_ids"]]),
                attention_mask=torch.tensor([row["attention_mask"]]),
                token_type_ids=torch.tensor([row["token_type_ids"]]),
            ).logits[0]
            assert logits[place] == pytest.approx(alone.numpy(), abs=1e-5)
    assert len(np.unique(logits.round(4), axis=0)) == 13, "no two rows are alike"


@settings(max_examples=5)
@given(st.permutations(range(9)))
def test_a_row_keeps_its_logits_wherever_it_stands(
    tiny_model: Path, classifier: PreTrainedModel, order: list[int]
) -> None:
    rows = rows_of(tiny_model, [3, 30, 1, 7, 7, 25, 12, 2, 40])
    plain = row_logits(classifier, rows, BATCHES, batch_tokens=80)
    shuffled = row_logits(classifier, rows.select(order), BATCHES, batch_tokens=80)
    assert shuffled == pytest.approx(plain[order], abs=1e-5)


def test_dropout_is_off_while_scoring(tiny_model: Path, classifier: PreTrainedModel) -> None:
    rows = rows_of(tiny_model, [10, 12])
    classifier.train()
    first, second = row_logits(classifier, rows, BATCHES), row_logits(classifier, rows, BATCHES)
    assert np.array_equal(first, second)


def test_outputs_that_are_no_numbers_are_refused_with_their_rows(
    tiny_model: Path, classifier: PreTrainedModel
) -> None:
    rows = rows_of(tiny_model, [3, 4])
    bias = classifier.get_parameter("classifier.bias")
    kept = bias.detach().clone()
    bias.data[1] = float("nan")
    try:
        with pytest.raises(UsageError, match=r"2 of 2 test rows \(first: r0, r1\)"):
            row_logits(classifier, rows, BATCHES)
    finally:
        bias.data = kept
