"""What a model folder must be to be tuned, and what its configuration says afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    GPT2Config,
    PreTrainedConfig,
)

from finetune_trainer.errors import UsageError
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.models.load import load_model, override_dropout

URI = "pvc://models/tiny-bert"
LABELS = ("negative", "positive")


def load(folder: Path, labels: tuple[str, ...] = LABELS, seed: int = 1) -> Any:
    return load_model(folder, URI, SINGLE_LABEL, labels, dropout=None, seed=seed)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(folder: Path, keep: Callable[[str], bool]) -> None:
    path = folder / "model.safetensors"
    weights = {name: weight for name, weight in load_file(path).items() if keep(name)}
    save_file(weights, path, metadata={"format": "pt"})


def test_the_configuration_leaves_nothing_to_guess(folder: Path) -> None:
    classifier = load(folder)
    config = classifier.model.config
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.label2id == {"negative": 0, "positive": 1}
    assert config.problem_type == "single_label_classification"
    assert config.pad_token_id == classifier.processor.pad_token_id == 0
    assert {weight.dtype for weight in classifier.model.parameters()} == {torch.float32}
    assert set(classifier.new_weights) == {"classifier.bias", "classifier.weight"}


def test_a_new_head_depends_on_its_seed_alone(folder: Path) -> None:
    heads = []
    for seed, disturbance in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(disturbance)
        heads.append(load(folder, seed=seed).model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_missing_backbone_weight_is_named(folder: Path) -> None:
    without(folder, lambda name: "layer.1.output.dense" not in name)
    with pytest.raises(UsageError, match=r"2 weights of the backbone.*layer\.1\.output"):
        load(folder)


def test_a_missing_pooler_is_part_of_the_new_head(folder: Path) -> None:
    without(folder, lambda name: "pooler" not in name)
    assert "bert.pooler.dense.weight" in load(folder).new_weights


@pytest.mark.parametrize("labels", [("positive", "negative"), ("a", "b", "c")])
def test_a_classifier_of_other_labels_is_refused(folder: Path, labels: tuple[str, ...]) -> None:
    load(folder).model.save_pretrained(folder)
    assert load(folder).new_weights == ()
    with pytest.raises(UsageError, match=r"classifies into negative, positive, the data into"):
        load(folder, labels)


def test_a_classifier_with_unnamed_labels_takes_the_jobs(folder: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(folder)
    model.save_pretrained(folder)
    assert load(folder).model.config.id2label == {0: "negative", 1: "positive"}


def test_two_pad_ids_are_refused(folder: Path) -> None:
    edit(folder, "config.json", pad_token_id=7)
    with pytest.raises(UsageError, match=r"pads with 7 by its config\.json and with 0"):
        load(folder)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (
            BertConfig(),
            {"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"},
        ),
        (DistilBertConfig(), {"dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout"}),
        (GPT2Config(), {"resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"}),
    ],
)
def test_every_dropout_rate_is_overridden(config: PreTrainedConfig, names: set[str]) -> None:
    assert set(override_dropout(config, 0.25)) == names
    assert {getattr(config, name) for name in names} == {0.25}


def test_without_dropout_a_model_in_training_repeats_itself(folder: Path) -> None:
    model = load_model(folder, URI, SINGLE_LABEL, LABELS, dropout=0.0, seed=1).model
    model.train()
    inputs = {"input_ids": torch.tensor([[2, 9, 10, 3]])}
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
