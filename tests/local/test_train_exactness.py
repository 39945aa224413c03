"""The loss of every step is the global batch's mean, whatever the gang and the ZeRO stage (I9).

The reference is a plain loop over whole batches in torch, which knows nothing of ranks, of
accumulation, of DeepSpeed or of the Trainer.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_api.report import ExitCode
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.models.load import load_model
from finetune_trainer.training.manifest import complete_checkpoints, damage
from finetune_trainer.training.plan import StepPlan
from harness.training import Job, pods

STEPS = 12
CLIP = 0.1
SETTINGS: dict[str, Any] = {
    "epochs": None,
    "max_steps": STEPS,
    "global_batch_size": 64,
    "learning_rate": 2e-3,
    "weight_decay": 0.01,
    "max_grad_norm": CLIP,
    "warmup_ratio": 0.2,
    "evals_per_epoch": 5,
    "checkpoint_every_steps": 4,
}
TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses by step, and the weights at the end."""

    train: list[float]
    select: list[float]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def reference(prepared_job: Job) -> Curve:
    """Train with AdamW, warm-up, linear decay and clipping: a loop of plain torch."""
    model = load_model(
        prepared_job.folder / "claims/models/tiny-bert",
        "pvc://models/tiny-bert",
        SINGLE_LABEL,
        ("negative", "positive"),
        dropout=0.0,
        seed=42,
    ).model
    tokenizer = AutoTokenizer.from_pretrained(prepared_job.folder / "claims/models/tiny-bert")
    train, select = (
        load_from_disk(str(prepared_job.workspace / LAYOUT.prepared / role))
        for role in ("train", "select")
    )

    def mean_loss(rows: Any) -> torch.Tensor:
        inputs = tokenizer.pad(
            {name: rows[name] for name in ("input_ids", "attention_mask")}, return_tensors="pt"
        )
        return cross_entropy(model(**inputs).logits, torch.tensor(rows["label"]))

    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=SETTINGS["learning_rate"],
    )
    warmup = 3  # a fifth of twelve steps, rounded up
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: step / warmup if step < warmup else (STEPS - step) / (STEPS - warmup),
    )
    plan = StepPlan(
        rows=len(train),
        global_batch_size=64,
        micro_batch_size=64,
        accumulation_steps=1,
        world_size=1,
        seed=42,
    )
    assert len(train) % 64, "the last batch of an epoch has to be a smaller one"
    losses, scores, norms = [], [], []
    for step in range(STEPS):
        model.train(mode=True)
        loss = mean_loss(train[plan.global_batch(step).tolist()])
        loss.backward()  # type: ignore[no-untyped-call]
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        model.train(mode=False)
        with torch.no_grad():
            scores.append(float(mean_loss(select[:])))
    # Adam does not see a constant factor on its gradients; clipping only some steps shows one.
    assert min(norms) < CLIP / 2 < CLIP * 2 < max(norms), norms
    return Curve(losses, scores, {name: w.detach() for name, w in model.state_dict().items()})


def trained(job: Job, attempt: int = 1) -> Curve:
    """Train to the end; the whole curve, those steps included that an earlier attempt made."""
    # No compiler is found on this path: nothing may be built when training starts.
    with pods(job, attempt, environment={"PATH": "/nowhere"}) as gang:
        ends = [pod.end() for pod in gang]
    assert [code for code, _ in ends] == [ExitCode.DONE] * job.workers, gang[0].log.read_text()
    folder = job.workspace / LAYOUT.checkpoint(attempt, STEPS)
    curve = job.manifest(attempt, STEPS).state.curve
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.id2label == {
        0: "negative",
        1: "positive",
    }
    return Curve(
        train=[point.loss for point in curve if point.loss is not None],
        select=[point.select_loss for point in curve if point.select_loss is not None],
        weights=load_file(folder / "model.safetensors"),
    )


def a_gang(
    job: Job, folder: Path, *, ranks: int = 1, workers: int = 1, micro_batch_size: int, **more: Any
) -> Job:
    """A copy of the job for a gang of this shape, at the same global batch."""
    accumulation_steps = 64 // (micro_batch_size * ranks * workers)
    split = {"micro_batch_size": micro_batch_size, "accumulation_steps": accumulation_steps}
    return dataclasses.replace(
        job.copied(folder), training={**SETTINGS, **split, **more}, ranks=ranks, workers=workers
    )


Trained = Callable[[int, int], tuple[Job, Curve]]


@pytest.fixture(scope="module")
def finished(prepared_job: Job, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trains each pair of ranks and ZeRO stage once, for all tests that ask for it."""

    @functools.cache
    def train(ranks: int, zero_stage: int) -> tuple[Job, Curve]:
        folder = tmp_path_factory.mktemp(f"ranks-{ranks}-zero-{zero_stage}") / "job"
        job = a_gang(
            prepared_job,
            folder,
            ranks=ranks,
            micro_batch_size=16 // ranks,
            zero_stage=zero_stage,
        )
        return job, trained(job)

    return train


def assert_same(curve: Curve, expected: Curve) -> None:
    assert curve.train == pytest.approx(expected.train, abs=TOLERANCE)
    assert curve.select == pytest.approx(expected.select, abs=TOLERANCE)
    torch.testing.assert_close(curve.weights, expected.weights, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2])
def test_loss_per_step_is_that_of_a_plain_loop(
    reference: Curve, finished: Trained, ranks: int, zero_stage: int
) -> None:
    _, curve = finished(ranks, zero_stage)
    assert_same(curve, reference)


@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_a_gang_that_lost_its_last_checkpoint_makes_the_same_again(
    finished: Trained, tmp_path: Path, zero_stage: int
) -> None:
    job, curve = finished(2, zero_stage)
    job = job.copied(tmp_path / "job")
    (job.workspace / LAYOUT.checkpoint(1, STEPS) / CHECKPOINT_MANIFEST).unlink()
    assert_same(trained(job, attempt=2), curve)
    assert job.manifest(2, STEPS).attempt == 2


@pytest.mark.parametrize(("zero_stage", "then"), [(0, (1,)), (1, (1,)), (2, (1, 2)), (3, (1, 2))])
def test_two_ranks_then_one_then_two_again_make_the_same_as_two_alone(
    finished: Trained, tmp_path: Path, zero_stage: int, then: tuple[int, ...]
) -> None:
    job, curve = finished(2, zero_stage)
    job = job.copied(tmp_path / "job")
    for attempt, ranks in enumerate(then, start=2):
        split = {"micro_batch_size": 16, "accumulation_steps": 4 // ranks}
        more = {"zero_stage": zero_stage, "checkpoint_every_steps": 2}
        job = dataclasses.replace(job, ranks=ranks, training={**SETTINGS, **split, **more})
        (job.workspace / LAYOUT.checkpoint(attempt - 1, STEPS) / CHECKPOINT_MANIFEST).unlink()
        before = complete_checkpoints(job.checkpoints)[0]
        content = sorted(before.folder.rglob("*"))
        assert_same(trained(job, attempt=attempt), curve)
        assert before.manifest.identity.world_size == 3 - ranks
        if before.folder.exists():
            assert damage(before) is None
            assert sorted(before.folder.rglob("*")) == content


def test_two_pods_meet_and_train_as_one_gang(
    prepared_job: Job, reference: Curve, tmp_path: Path
) -> None:
    job = a_gang(prepared_job, tmp_path / "job", workers=2, micro_batch_size=32, zero_stage=2)
    assert_same(trained(job), reference)


def test_bf16_stays_near_and_is_saved_as_it_was_computed(
    prepared_job: Job, reference: Curve, tmp_path: Path
) -> None:
    job = a_gang(
        prepared_job, tmp_path / "job", micro_batch_size=16, zero_stage=2, precision="bf16"
    )
    curve = trained(job)
    assert curve.train == pytest.approx(reference.train, abs=0.02)
    assert {weight.dtype for weight in curve.weights.values()} == {torch.bfloat16}


def test_what_a_batch_weighs_is_not_rounded_to_the_models_precision(
    prepared_job: Job, tmp_path: Path
) -> None:
    one_step: dict[str, Any] = {
        "max_steps": 1,
        "precision": "bf16",
        # The next number that bf16 has is 260.
        "global_batch_size": 259,
        "micro_batch_size": 7,
        "accumulation_steps": 37,
        "evals_per_epoch": 1,
    }
    job = dataclasses.replace(
        prepared_job.copied(tmp_path / "job"), training={**SETTINGS, **one_step}
    )
    folder = job.folder / "claims/models/tiny-bert"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    model.save_pretrained(folder)
    with pods(job, 1) as gang:
        code, _ = gang[0].end()
    assert code == ExitCode.DONE, gang[0].log.read_text()
    (loss,) = [one.loss for one in job.manifest(1, 1).state.curve if one.loss is not None]
    assert loss == pytest.approx(math.log(2), abs=1e-4)


SPARING = {"activation_checkpointing": True, "offload": "optimizer", "zero_stage": 2}
MOST_SPARING = SPARING | {"offload": "parameters", "zero_stage": 3}


@pytest.mark.parametrize("saving", [SPARING, MOST_SPARING], ids=["optimizer", "parameters"])
def test_what_saves_memory_changes_no_loss_nor_does_another_gang_that_goes_on(
    prepared_job: Job, reference: Curve, tmp_path: Path, saving: dict[str, Any]
) -> None:
    job = a_gang(prepared_job, tmp_path / "job", ranks=2, micro_batch_size=16, **saving)
    assert_same(trained(job), reference)
    (job.workspace / LAYOUT.checkpoint(1, STEPS) / CHECKPOINT_MANIFEST).unlink()
    split = {"micro_batch_size": 16, "accumulation_steps": 4}
    alone = dataclasses.replace(job, ranks=1, training={**SETTINGS, **split, **saving})
    assert_same(trained(alone, attempt=2), reference)


def test_a_compiled_model_computes_the_same(
    prepared_job: Job, reference: Curve, tmp_path: Path
) -> None:
    job = a_gang(prepared_job, tmp_path / "job", micro_batch_size=32, compile=True)
    with pods(job, 1) as (pod,):
        code, _ = pod.end()
    assert code == ExitCode.DONE, pod.log.read_text()
    curve = job.manifest(1, STEPS).state.curve
    losses = [point.loss for point in curve if point.loss is not None]
    assert losses == pytest.approx(reference.train, abs=TOLERANCE)
