"""Classes that weigh differently: a step's loss is Σ weight·nll / Σ weight over its global batch.

The references are loops over single rows in plain torch, which know of no ranks and micro-batches.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from finetune_api.balance import ClassWeights
from finetune_api.report import ExitCode
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_api.tasks import Task
from finetune_trainer.errors import UsageError
from finetune_trainer.models.heads import SINGLE_LABEL, TAGS, Head
from finetune_trainer.models.load import load_model
from finetune_trainer.training.class_weights import class_weights
from finetune_trainer.training.plan import Balance, StepPlan
from harness.tagging import stories, write_jsonl
from harness.tasks import MODEL, prepared
from harness.training import Job, pods

STEPS = 4
SETTINGS: dict[str, Any] = {
    "epochs": None,
    "max_steps": STEPS,
    "global_batch_size": 32,
    "evals_per_epoch": 10,
    "checkpoint_every_steps": 2,
}
TAG_NAMES = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")


@dataclasses.dataclass(frozen=True)
class Curve:
    train: list[float]
    select: list[float]


def trained(job: Job, attempt: int = 1) -> Curve:
    with pods(job, attempt) as gang:
        code, _ = gang[0].end()
    assert code == ExitCode.DONE, gang[0].log.read_text()
    curve = job.manifest(attempt, STEPS).state.curve
    return Curve(
        [one.loss for one in curve if one.loss is not None],
        [one.select_loss for one in curve if one.select_loss is not None],
    )


def split(job: Job, folder: Path, ranks: int, micro: int, **training: Any) -> Job:
    shares = {"micro_batch_size": micro, "accumulation_steps": 32 // (micro * ranks)}
    return dataclasses.replace(
        job.copied(folder), training=SETTINGS | shares | training, ranks=ranks
    )


def first_loss(
    job: Job, head: Head, labels: tuple[str, ...], weights: Any, balance: Balance | None = None
) -> float:
    """Σ weight·nll / Σ weight of the first step, row by row."""
    model = load_model(
        job.folder / "claims/models/tiny-bert", MODEL, head, labels, dropout=0.0, seed=42
    ).model
    rows = load_from_disk(str(job.workspace / LAYOUT.prepared / "train"))
    plan = StepPlan(
        rows=len(rows), global_batch_size=32, micro_batch_size=32, accumulation_steps=1,
        world_size=1, seed=42, balance=balance,
    )  # fmt: skip
    total = weighed = 0.0
    for place in plan.global_batch(0).tolist():
        row = rows[place]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        targets = row["tags"] if "tags" in row else [row["label"]]
        for scores, target in zip(logits if "tags" in row else [logits], targets, strict=True):
            if target >= 0:
                total += weights[target] * float(cross_entropy(scores, torch.tensor(target)))
                weighed += weights[target]
    return total / weighed


def test_rows_weigh_what_their_class_does_on_any_gang(prepared_job: Job, tmp_path: Path) -> None:
    stated = {"class_weights": {"weights": {"positive": 5.0}}}
    one = trained(split(prepared_job, tmp_path / "one", 1, 16, **stated))
    two = trained(split(prepared_job, tmp_path / "two", 2, 4, **stated))
    expected = first_loss(prepared_job, SINGLE_LABEL, ("negative", "positive"), (1.0, 5.0))
    assert one.train[0] == pytest.approx(expected, abs=1e-5)
    assert two.train == pytest.approx(one.train, abs=1e-4)
    assert two.select == pytest.approx(one.select, abs=1e-4)


def test_words_weigh_what_their_tag_does_on_any_gang(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "tags"
    write_jsonl(folder / "rows.jsonl", stories(150))
    prepared(folder, tiny_model, Task.TOKEN_CLASSIFICATION, SETTINGS, train="rows.jsonl")
    job = Job(folder, SETTINGS, task=Task.TOKEN_CLASSIFICATION)
    rows = load_from_disk(str(job.workspace / LAYOUT.prepared / "train"))
    counts = Counter(tag for row in rows for tag in row["tags"] if tag >= 0)
    weights = [sum(counts.values()) / (5 * counts[tag]) for tag in range(5)]
    stated = {"class_weights": {"balanced": True}}
    one = trained(split(job, tmp_path / "one", 1, 16, **stated))
    two = trained(split(job, tmp_path / "two", 2, 4, **stated))
    assert one.train[0] == pytest.approx(first_loss(job, TAGS, TAG_NAMES, weights), abs=1e-5)
    assert two.train == pytest.approx(one.train, abs=1e-4)
    assert two.select == pytest.approx(one.select, abs=1e-4)


def test_balanced_rows_are_drawn_alike_by_all_ranks_and_after_a_stop(
    prepared_job: Job, tmp_path: Path
) -> None:
    job = split(prepared_job, tmp_path / "job", 2, 4, sampling="balanced")
    curve = trained(job)
    rows = load_from_disk(str(job.workspace / LAYOUT.prepared / "train"))
    balance = Balance(np.asarray(rows["label"]))
    expected = first_loss(job, SINGLE_LABEL, ("negative", "positive"), (1.0, 1.0), balance)
    assert curve.train[0] == pytest.approx(expected, abs=1e-5)
    (job.workspace / LAYOUT.checkpoint(1, STEPS) / CHECKPOINT_MANIFEST).unlink()
    again = trained(split(job, tmp_path / "again", 1, 16, sampling="balanced"), attempt=2)
    assert again.train == pytest.approx(curve.train, abs=1e-4)
    assert again.select == pytest.approx(curve.select, abs=1e-4)


def test_balanced_weights_are_scikit_learns() -> None:
    classes = np.asarray([0] * 70 + [1] * 25 + [2] * 5)
    ours = class_weights(ClassWeights(balanced=True), ("a", "b", "c"), classes)
    assert ours == pytest.approx(compute_class_weight("balanced", classes=np.arange(3), y=classes))


def test_a_label_that_no_row_has_weighs_one_and_raises_no_other() -> None:
    ours = class_weights(ClassWeights(balanced=True), ("a", "I-b", "c"), np.asarray([0, 0, 0, 2]))
    assert ours == pytest.approx((2 / 3, 1.0, 2.0))


def test_a_weight_of_no_label_is_refused_by_name(tmp_path: Path, tiny_model: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", stories(150))
    training = SETTINGS | {"class_weights": {"weights": {"B-PERS": 2.0}}}
    with pytest.raises(UsageError, match="'B-PERS' is none of the labels; they are B-LOC, B-PER"):
        prepared(tmp_path, tiny_model, Task.TOKEN_CLASSIFICATION, training, train="rows.jsonl")
