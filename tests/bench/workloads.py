"""What the speed benchmarks train: random models of a stated shape, and rows of stated lengths.

A workload is a folder with a model (its head included, so that every contender begins with the same
weights) and the prepare step done.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
)

from bench.lengths import LONGEST, row_lengths
from finetune_api.report import Step
from finetune_api.run import Run
from finetune_api.tasks import Task
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment
from harness.digits import write_digits, write_processor
from harness.language import from_tokenizer, gpt2_tokenizer
from harness.tinymodel import BAD, GOOD, NEUTRAL, tiny_tokenizer
from harness.trainer import a_run, an_environment

LABELS = ("negative", "positive")
_WORDS = NEUTRAL.split()
_COLORS = "red blue green black white pink gray brown one two three four five six".split()
_NEVER = 10**6


@dataclass(frozen=True)
class Workload:
    """A prepared job; ``run`` is its train step."""

    folder: Path
    run: Run

    def environment(self, run: Run) -> dict[str, str]:
        """The variables of a rank that does ``run`` here."""
        return an_environment(self.folder, run, BASE=str(self.folder))

    def copied(self, folder: Path, **training: Any) -> Workload:
        """The same job in a folder of its own, with these settings of the training changed."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(folder.name))
        changed = self.run.training.model_copy(update=training)
        return Workload(folder, self.run.model_copy(update={"training": changed}))


def classification(folder: Path, *, steps: int, batch: int = 16, longest: int = 512) -> Workload:
    """Texts of one of two classes, and a BERT of four layers, hidden size 128."""
    write_classifier(folder / "model", longest)
    needed = _before_split(steps * batch)
    chance = random.Random(1)
    rows = []
    for number, length in enumerate(row_lengths(needed, longest).tolist()):
        marks = GOOD if number % 2 else BAD
        words = chance.choices(_WORDS, k=max(1, length - 4)) + chance.choices(marks, k=2)
        rows.append({"text": " ".join(words), "label": LABELS[number % 2]})
    _write_rows(folder, rows)
    return _prepared(
        folder,
        Task.TEXT_CLASSIFICATION,
        {"train": "rows.jsonl"},
        steps,
        batch,
        batch,
        {"max_length": longest},
    )


def write_classifier(folder: Path, longest: int) -> None:
    """Write the BERT with its head and tokenizer."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=8192,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=longest,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def language(folder: Path, *, steps: int, batch: int = 16, micro_batch: int = 16) -> Workload:
    """Texts, and a Llama of two layers, hidden size 192, vocabulary 2,048, length 1,024."""
    write_language_model(folder / "model")
    chance = random.Random(1)
    # The tokenizer has a token for each word, and the prepare step adds the one that ends a text.
    lengths = row_lengths(_before_split(steps * batch)).tolist()
    rows = [{"text": " " + " ".join(chance.choices(_COLORS, k=one - 1))} for one in lengths]
    _write_rows(folder, rows)
    dataset = {"train": "rows.jsonl", "columns": {"text": "text"}}
    settings = {"max_length": LONGEST, "truncation": "keepStart", "packing": False}
    return _prepared(folder, Task.CAUSAL_LM, dataset, steps, batch, micro_batch, settings)


def write_language_model(folder: Path) -> None:
    """Write the Llama with its tokenizer."""
    # Padding of its own: the stock collator would take the end of a text for padding.
    tokenizer = from_tokenizer(
        Tokenizer.from_str(gpt2_tokenizer().backend_tokenizer.to_str()),
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|im_end|>",
    )
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=LONGEST,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def images(folder: Path, *, steps: int, batch: int = 16) -> Workload:
    """Scikit-learn's digits at 64 × 64 pixels, and a ResNet of four blocks."""
    write_digits(folder / "digits", _before_split(steps * batch))
    names = [str(digit) for digit in range(10)]
    torch.manual_seed(7)
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[64, 128],
        depths=[2, 2],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    ResNetForImageClassification(config).save_pretrained(folder / "model")
    write_processor(folder / "model", size={"height": 64, "width": 64})
    settings = {"max_length": None, "batch_norm": "train", "dropout": None}
    return _prepared(
        folder, Task.IMAGE_CLASSIFICATION, {"train": "digits"}, steps, batch, batch, settings
    )


def _before_split(rows: int) -> int:
    """So many rows that the part of them that is trained on, 72 %, is enough."""
    return int(rows / 0.66) + 20


def _write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def _prepared(
    folder: Path,
    task: Task,
    dataset: Mapping[str, Any],
    steps: int,
    batch: int,
    micro_batch: int,
    settings: Mapping[str, Any],
) -> Workload:
    """Do the prepare step; nothing is scored or saved while ``steps`` steps are trained."""
    run = a_run(
        dataset=dict(dataset),
        model="model",
        task=task,
        training={
            "epochs": None,
            "max_steps": steps + 1,
            "learning_rate": 1e-4,
            "weight_decay": 0.01,
            "zero_stage": 0,
            "global_batch_size": batch,
            "micro_batch_size": micro_batch,
            "accumulation_steps": batch // micro_batch,
            "evals_per_epoch": 1,
            "checkpoint_every_steps": _NEVER,
            **settings,
        },
    )
    workload = Workload(folder, run.model_copy(update={"step": Step.TRAIN}))
    report = prepare(RankEnvironment.from_env(workload.environment(run)), run)
    if report.data.train_rows < (steps + 1) * batch:
        raise SystemExit(f"{report.data.train_rows} rows are fewer than {steps + 1} steps take")
    return workload
