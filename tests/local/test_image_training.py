"""Models of images on one rank and on two: the same losses, the same model, the same after a stop.

The reference for a step's loss is the model itself on the step's global batch, in plain torch.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from transformers import ResNetConfig, ResNetForImageClassification

from finetune_api.images import Augmentation, BatchNorm
from finetune_api.report import ExitCode, FailureClass
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_api.tasks import Task
from finetune_trainer.data.pixels import PixelForm
from finetune_trainer.models.heads import IMAGES
from finetune_trainer.models.load import load_model
from finetune_trainer.models.processors import load_image_processor
from finetune_trainer.training.augmentation import Variation
from finetune_trainer.training.batch_norm import Norms
from finetune_trainer.training.gang import process_group
from finetune_trainer.training.image_batches import ImageBatches
from finetune_trainer.training.place import Place
from finetune_trainer.training.plan import StepPlan
from finetune_trainer.training.rows import PreparedRows, model_inputs
from harness.digits import write_digits, write_tiny_resnet, write_tiny_vit
from harness.processes import free_port
from harness.tasks import MODEL, prepared
from harness.training import Job, pods, train_to_end

STEPS = 8
BATCH = 48
AUGMENTATION: dict[str, Any] = {
    "horizontal_flip": True,
    "min_crop_percent": 70,
    "rotation_degrees": 15,
    "contrast_percent": 20,
}
SETTINGS: dict[str, Any] = {
    "epochs": None,
    "max_steps": STEPS,
    "max_length": None,
    "global_batch_size": BATCH,
    "learning_rate": 1e-3,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 5,
    "checkpoint_keep": 4,
}
LABELS = tuple("0123456789")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Give a job of 240 digits, which are prepared for a small random ResNet."""
    folder = tmp_path_factory.mktemp("jobs") / "digits"
    write_digits(folder / "images", 240)
    write_tiny_resnet(folder / "model")
    dataset: dict[str, Any] = {"train": "images", "split": {"strategy": "stratified"}}
    prepared(folder, folder / "model", Task.IMAGE_CLASSIFICATION, SETTINGS, **dataset)
    return Job(folder, SETTINGS, task=Task.IMAGE_CLASSIFICATION, dataset=dataset, model=MODEL)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training left: losses by step, the select loss, and its last checkpoint's weights."""

    job: Job
    losses: list[float]
    select: float
    weights: dict[str, torch.Tensor]

    @classmethod
    def of(cls, job: Job, attempt: int = 1) -> Trained:
        with pods(job, attempt) as gang:
            ends = [pod.end() for pod in gang]
            assert [code for code, _ in ends] == [ExitCode.DONE], gang[0].log.read_text()
        curve = job.manifest(attempt, STEPS).state.curve
        scores = [one.select_loss for one in curve if one.select_loss is not None]
        folder = job.workspace / LAYOUT.checkpoint(attempt, STEPS)
        losses = [one.loss for one in curve if one.loss is not None]
        return cls(job, losses, scores[-1], load_file(folder / "model.safetensors"))


Train = Callable[[int, str], Trained]


@pytest.fixture(scope="module")
def trained(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains each number of ranks and treatment of batch norms once, varied in every epoch."""

    @functools.cache
    def train(ranks: int, batch_norm: str) -> Trained:
        copy = job.copied(tmp_path_factory.mktemp(f"{batch_norm}-{ranks}") / "job")
        return Trained.of(split(copy, ranks, batch_norm=batch_norm, augmentation=AUGMENTATION))

    return train


def split(job: Job, ranks: int, **more: Any) -> Job:
    micro = {"micro_batch_size": 8, "accumulation_steps": BATCH // 8 // ranks}
    return dataclasses.replace(job, ranks=ranks, training=SETTINGS | micro | more)


@pytest.fixture(scope="module")
def batches(job: Job) -> ImageBatches:
    processor = load_image_processor(job.folder / "claims/models/tiny-bert", MODEL)
    return ImageBatches(PixelForm.of(processor, MODEL))


def rows_of(job: Job, role: str) -> Any:
    return load_from_disk(str(job.workspace / LAYOUT.prepared / role))


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> float:
    """Mean over rows, with the statistics that the model has."""
    model.train(mode=False)
    with torch.no_grad():
        logits = model(**model_inputs({**batch, "weights": torch.ones(0)})).logits
    return float(cross_entropy(logits, batch["labels"]))


def test_statistics_do_not_hold_the_models_file(tmp_path: Path) -> None:
    write_tiny_resnet(tmp_path)
    model = load_model(tmp_path, MODEL, IMAGES, LABELS, dropout=0.0, seed=42).model
    for weight in model.parameters():
        # As DeepSpeed lays them out anew.
        weight.data = weight.data.clone()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_steps_loss_is_the_mean_over_its_varied_global_batch_on_any_gang(
    job: Job, trained: Train, batches: ImageBatches, ranks: int
) -> None:
    folder = job.folder / "claims/models/tiny-bert"
    model = load_model(folder, MODEL, IMAGES, LABELS, dropout=0.0, seed=42).model
    train = rows_of(job, "train")
    plan = StepPlan(
        rows=len(train),
        global_batch_size=BATCH,
        micro_batch_size=BATCH,
        accumulation_steps=1,
        world_size=1,
        seed=42,
    )
    chosen = plan.global_batch(0).tolist()
    varied = Variation(Augmentation(**AUGMENTATION), 42, batches)(train[chosen], range(BATCH))
    expected = loss_of(model, batches.batch(varied))
    assert abs(expected - loss_of(model, batches.batch(train[chosen]))) > 1e-3, "not varied at all"
    assert trained(ranks, "frozen").losses[0] == pytest.approx(expected, abs=1e-5)
    assert trained(ranks, "frozen").losses == pytest.approx(trained(1, "frozen").losses, abs=1e-4)


def test_frozen_statistics_stay_the_models_own_and_trained_ones_move(
    job: Job, trained: Train
) -> None:
    before = load_file(job.folder / "claims/models/tiny-bert/model.safetensors")

    def moved(batch_norm: str) -> bool:
        weights = trained(2, batch_norm).weights
        names = [name for name in before if name.endswith(("running_mean", "running_var"))]
        assert names
        return any(not torch.equal(weights[f"resnet.{name}"], before[name]) for name in names)

    assert not moved("frozen")
    assert moved("train")


def test_two_ranks_score_with_the_model_that_is_saved(
    trained: Train, batches: ImageBatches
) -> None:
    """If rank 1 had statistics of its own, its half of the select rows would score otherwise."""
    done = trained(2, "train")
    folder = done.job.workspace / LAYOUT.checkpoint(1, STEPS)
    model = ResNetForImageClassification.from_pretrained(folder)
    rows = rows_of(done.job, "select")
    assert done.select == pytest.approx(loss_of(model, batches.batch(rows[:])), abs=1e-6)


@pytest.mark.parametrize(("zero_stage", "loaded_in"), [(2, torch.float32), (3, torch.bfloat16)])
def test_bf16_stays_near_and_is_scored_with_the_model_that_is_saved(
    job: Job,
    trained: Train,
    batches: ImageBatches,
    tmp_path: Path,
    zero_stage: int,
    loaded_in: torch.dtype,
) -> None:
    changes = {"precision": "bf16", "zero_stage": zero_stage}
    settings = dict(trained(2, "frozen").job.training) | changes
    half = Trained.of(dataclasses.replace(job.copied(tmp_path / "job"), ranks=2, training=settings))
    assert half.losses == pytest.approx(trained(2, "frozen").losses, abs=0.02)
    folder = half.job.workspace / LAYOUT.checkpoint(1, STEPS)
    model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32)
    rows = rows_of(half.job, "select")
    assert half.select == pytest.approx(loss_of(model, batches.batch(rows[:])), abs=0.01)
    before = load_file(job.folder / "claims/models/tiny-bert/model.safetensors")
    for name in (name for name in before if name.endswith(("running_mean", "running_var"))):
        expected = before[name].to(loaded_in).float()
        assert torch.equal(half.weights[f"resnet.{name}"].float(), expected), "moved, or rounded"


def test_sharded_weights_make_the_same_model(job: Job, trained: Train, tmp_path: Path) -> None:
    whole = trained(2, "train")
    sharded = dict(whole.job.training) | {"zero_stage": 3}
    made = Trained.of(dataclasses.replace(job.copied(tmp_path / "job"), ranks=2, training=sharded))
    assert made.losses == pytest.approx(whole.losses, abs=1e-4)
    torch.testing.assert_close(made.weights, whole.weights, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_a_resume_makes_bit_for_bit_what_it_would_have_made(
    trained: Train, tmp_path: Path, batch_norm: str
) -> None:
    whole = trained(2, batch_norm)
    job = whole.job.copied(tmp_path / "job")
    (job.workspace / LAYOUT.checkpoint(1, STEPS) / CHECKPOINT_MANIFEST).unlink()
    again = Trained.of(dataclasses.replace(job, training=whole.job.training), attempt=2)
    assert job.manifest(2, STEPS).attempt == 2
    assert again.losses == whole.losses
    assert again.weights.keys() == whole.weights.keys()
    for name, weight in whole.weights.items():
        assert torch.equal(again.weights[name], weight), name


def _logits_of_a_rank(rank: int, port: int, treatment: BatchNorm, folder: str) -> None:
    """A rank of two that learns from images of its own, and then scores the same as the other."""
    torch.manual_seed(1)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = ResNetForImageClassification(config)
    place = Place(
        rank=rank,
        world_size=2,
        local_rank=rank,
        local_world_size=2,
    )
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with process_group(place, torch.device("cpu"), step_timeout=timedelta(minutes=10)) as gang:
        norms = Norms(model, treatment, gang)
        own = torch.randn((6, 3, 16, 16), generator=torch.Generator().manual_seed(rank)) * (
            2 + rank
        )
        for _ in range(3):
            model.train()
            norms.before_forward()
            model(own)
            norms.after_step()
        model.train(mode=False)
        with torch.no_grad():
            logits = model(torch.ones(4, 3, 16, 16)).logits
        torch.save(logits, Path(folder) / f"{rank}.pt")


@pytest.mark.parametrize("treatment", list(BatchNorm))
def test_logits_are_bit_equal_across_ranks(tmp_path: Path, treatment: BatchNorm) -> None:
    spawn(  # type: ignore[no-untyped-call]
        _logits_of_a_rank, (free_port(), treatment, str(tmp_path)), nprocs=2
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)


def test_statistics_to_train_that_a_model_lacks_are_refused(job: Job, tmp_path: Path) -> None:
    copy = job.copied(tmp_path / "job")
    write_tiny_vit(copy.folder / "claims/models/tiny-bert")
    code, said = train_to_end(split(copy, 1, batch_norm="train"))
    assert code == ExitCode.USAGE
    assert said.failure is not None
    assert said.failure.failure_class is FailureClass.USER_ERROR
    assert "training.batchNorm: the model has no batch normalization" in said.failure.message


def test_activations_that_cannot_be_computed_again_are_refused(job: Job, tmp_path: Path) -> None:
    code, said = train_to_end(split(job.copied(tmp_path / "job"), 1, activation_checkpointing=True))
    assert code == ExitCode.USAGE
    assert said.failure is not None
    assert "training.activationCheckpointing: ResNetFor" in said.failure.message


def test_only_training_rows_are_varied(trained: Train, job: Job, batches: ImageBatches) -> None:
    """The select loss of a varied training is that of the rows as they are."""
    done = trained(1, "frozen")
    folder = done.job.workspace / LAYOUT.checkpoint(1, STEPS)
    model = ResNetForImageClassification.from_pretrained(folder)
    plain = PreparedRows(rows_of(job, "select"), batches)
    batch, _ = plain.batch(np.arange(len(plain)).tolist())
    assert done.select == pytest.approx(loss_of(model, batch), abs=1e-5)
