"""LoRA by a real gang: the loss of a plain loop, checkpoints of what is trained alone, resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from finetune_api.lora import Lora
from finetune_api.report import ExitCode
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.models.load import load_model
from finetune_trainer.models.lora import adapt
from finetune_trainer.training.manifest import complete_checkpoints
from finetune_trainer.training.plan import StepPlan
from harness.training import Job, pods

STEPS = 6
RATE = 5e-3
LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0}
SETTINGS: dict[str, Any] = {
    "epochs": None,
    "max_steps": STEPS,
    "global_batch_size": 64,
    "learning_rate": RATE,
    "scheduler": "constant",
    "warmup_ratio": 0,
    "max_grad_norm": 1000,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 2,
}
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses by step, and what was trained at the end."""

    losses: list[float]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def reference(prepared_job: Job) -> Curve:
    """Train the adapted model in a loop of plain torch, over whole batches."""
    folder, uri = prepared_job.folder / "claims/models/tiny-bert", "pvc://models/tiny-bert"
    labels = ("negative", "positive")
    loaded = load_model(folder, uri, SINGLE_LABEL, labels, dropout=0.0, seed=42)
    model = adapt(loaded.model, uri, Lora(**LORA), loaded.new_weights, seed=42)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = load_from_disk(str(prepared_job.workspace / LAYOUT.prepared / "train"))
    plan = StepPlan(
        rows=len(rows),
        global_batch_size=64,
        micro_batch_size=64,
        accumulation_steps=1,
        world_size=1,
        seed=42,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0)
    losses = []
    for step in range(STEPS):
        batch = rows[plan.global_batch(step).tolist()]
        inputs = tokenizer.pad(
            {name: batch[name] for name in ("input_ids", "attention_mask")}, return_tensors="pt"
        )
        loss = cross_entropy(model(**inputs).logits, torch.tensor(batch["label"]))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    trained = {
        name.replace(".default", ""): weight.detach()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    return Curve(losses, trained)


def a_gang(job: Job, folder: Path, ranks: int, zero_stage: int) -> Job:
    return dataclasses.replace(on(job.copied(folder), ranks, zero_stage), lora=LORA)


def on(job: Job, ranks: int, zero_stage: int) -> Job:
    split = {"micro_batch_size": 16, "accumulation_steps": 4 // ranks, "zero_stage": zero_stage}
    return dataclasses.replace(job, ranks=ranks, training=SETTINGS | split)


def trained(job: Job, attempt: int = 1) -> Curve:
    with pods(job, attempt) as (pod,):
        code, _ = pod.end()
    assert code == ExitCode.DONE, pod.log.read_text()
    curve = job.manifest(attempt, STEPS).state.curve
    return Curve(
        losses=[point.loss for point in curve if point.loss is not None],
        weights=load_file(
            job.workspace / LAYOUT.checkpoint(attempt, STEPS) / "adapter_model.safetensors"
        ),
    )


def assert_same(curve: Curve, expected: Curve) -> None:
    assert curve.losses == pytest.approx(expected.losses, abs=TOLERANCE)
    found = {name.replace("modules_to_save.", ""): one for name, one in curve.weights.items()}
    wanted = {name.replace("modules_to_save.", ""): one for name, one in expected.weights.items()}
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("ranks", "then", "zero_stage"), [(1, 2, 2), (2, 1, 3)])
def test_a_gang_makes_what_a_plain_loop_makes_and_so_does_one_of_another_size_that_goes_on(
    prepared_job: Job, reference: Curve, tmp_path: Path, ranks: int, then: int, zero_stage: int
) -> None:
    job = a_gang(prepared_job, tmp_path / "job", ranks, zero_stage)
    moved = [one.abs().max() for name, one in reference.weights.items() if "lora_B" in name]
    assert min(moved) > 100 * TOLERANCE, "they begin as zeros"
    assert_same(trained(job), reference)
    (job.workspace / LAYOUT.checkpoint(1, STEPS) / CHECKPOINT_MANIFEST).unlink()
    left = complete_checkpoints(job.checkpoints)[0]
    assert (left.manifest.state.step, left.manifest.identity.world_size) == (STEPS - 1, ranks)
    assert_nothing_frozen_in(left.folder)
    assert_same(trained(on(job, then, zero_stage), attempt=2), reference)


def assert_nothing_frozen_in(checkpoint: Path) -> None:
    assert not (checkpoint / "model.safetensors").exists()
    (state, *_) = checkpoint.glob("global_step*/*model_states.pt")
    saved = torch.load(state, weights_only=False)
    groups = saved["param_shapes"] or ()
    names = {*(saved["module"] or ()), *(name for group in groups for name in group)}
    assert names
    assert not [name for name in names if "lora_" not in name and "modules_to_save" not in name]
