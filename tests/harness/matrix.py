"""The matrix architecture × method × ZeRO stage × ranks: its cells, and their jobs.

Also the weights that each must end with. Used by `tests/local/test_matrix.py`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.modules.batchnorm import _BatchNorm

from finetune_api.datareport import PrepareReport
from finetune_api.lora import Lora
from finetune_api.report import Step
from finetune_api.run import LAYOUT, Run
from finetune_api.tasks import Task
from finetune_api.training import Truncation
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.models.load import load_model
from finetune_trainer.models.lora import adapt, save_adapter
from finetune_trainer.models.processors import load_processor
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.plan import StepPlan
from finetune_trainer.training.rows import PreparedRows, StepStream, model_inputs
from harness.digits import write_digits, write_tiny_resnet, write_tiny_vit
from harness.language import (
    COLORS,
    NUMBERS,
    a_gpt2,
    a_llama,
    gpt2_tokenizer,
    llama_tokenizer,
    saved,
)
from harness.tinymodel import write_sentences, write_tiny_model
from harness.trainer import a_run, an_environment
from harness.training import Job

MODEL = "pvc://models/tiny"
STEPS = 20
RATE = 5e-4
LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A shape of models: what writes a tiny one and its rows, and what is trained with it."""

    task: Task
    write_model: Callable[[Path], object]
    write_rows: Callable[[Path], object]
    dataset: Mapping[str, Any]
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    adaptable: bool = True


def _write_texts(folder: Path) -> None:
    rows = [
        {"id": f"{color}-{number}", "text": f"{color} {number} {color}"}
        for color, number in itertools.product(COLORS, NUMBERS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


_TEXTS = {"train": "rows.jsonl", "columns": {"id": "id", "text": "text"}}
_LANGUAGE = {"max_length": 32, "truncation": Truncation.DROP}
_IMAGES = {"train": "images", "split": {"strategy": "stratified"}}

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        Task.TEXT_CLASSIFICATION,
        write_tiny_model,
        lambda folder: write_sentences(folder / "rows.csv", 120),
        {"train": "rows.csv", "columns": {"id": "id"}},
    ),
    "gpt2": Architecture(
        Task.CAUSAL_LM,
        lambda folder: saved(a_gpt2(gpt2_tokenizer()), gpt2_tokenizer(), folder),
        _write_texts,
        _TEXTS,
        _LANGUAGE,
    ),
    # Packed: what is stopped and resumed then is a plan of shared sequences.
    "llama": Architecture(
        Task.CAUSAL_LM,
        lambda folder: saved(a_llama(llama_tokenizer()), llama_tokenizer(), folder),
        _write_texts,
        _TEXTS,
        {**_LANGUAGE, "packing": True},
    ),
    "resnet": Architecture(
        Task.IMAGE_CLASSIFICATION,
        write_tiny_resnet,
        lambda folder: write_digits(folder / "images", 150),
        _IMAGES,
        {"max_length": None},
        adaptable=False,
    ),
    "vit": Architecture(
        Task.IMAGE_CLASSIFICATION,
        write_tiny_vit,
        lambda folder: write_digits(folder / "images", 150),
        _IMAGES,
        {"max_length": None},
    ),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination."""

    architecture: str
    method: str
    zero_stage: int
    ranks: int

    def __str__(self) -> str:
        return f"{self.architecture}-{self.method}-zero{self.zero_stage}-ranks{self.ranks}"


EVERY = tuple(
    Cell(name, method, zero_stage, ranks)
    for name, one in ARCHITECTURES.items()
    for method in (("full", "lora") if one.adaptable else ("full",))
    for zero_stage in range(4)
    for ranks in (1, 2)
)
COVERING = (
    Cell("bert", "full", 0, 1),
    Cell("bert", "lora", 2, 2),
    Cell("gpt2", "full", 1, 1),
    Cell("gpt2", "lora", 3, 2),
    Cell("llama", "full", 2, 1),
    Cell("llama", "lora", 1, 2),
    Cell("resnet", "full", 3, 1),
    Cell("resnet", "full", 0, 2),
    Cell("vit", "lora", 0, 1),
    Cell("vit", "full", 2, 2),
)
"""Every pair of values but architecture × stage, which alone would take twenty cells."""


def chosen() -> tuple[Cell, ...]:
    """The covering cells, or those that ``FINETUNE_MATRIX`` says: all, or names' beginnings."""
    wanted = os.environ.get("FINETUNE_MATRIX", "")
    if not wanted:
        return COVERING
    if wanted == "all":
        return EVERY
    return tuple(cell for cell in EVERY if str(cell).startswith(tuple(wanted.split())))


def prepared(folder: Path, cell: Cell) -> Job:
    """Run the prepare step for all cells of an architecture and a method."""
    one = ARCHITECTURES[cell.architecture]
    folder.mkdir(parents=True)
    one.write_model(folder / "claims" / "models" / "tiny")
    one.write_rows(folder)
    job = Job(
        folder=folder,
        training={
            "epochs": None,
            "max_steps": STEPS,
            "learning_rate": RATE,
            "scheduler": "constant",
            "warmup_ratio": 0,
            "max_grad_norm": 1000,
            "evals_per_epoch": 1,
            "checkpoint_every_steps": 1000,
            "zero_stage": 0,
            **one.training,
        },
        task=one.task,
        dataset=one.dataset,
        model=MODEL,
        lora=LORA if cell.method == "lora" else None,
    )
    prepare(environment(job, run_of(job)), run_of(job))
    return job


def on(job: Job, folder: Path, cell: Cell) -> Job:
    """The cell's own job, with what was prepared."""
    split = {
        "micro_batch_size": 4,
        "accumulation_steps": 4 // cell.ranks,
        "zero_stage": cell.zero_stage,
    }
    copied = job.copied(folder)
    return dataclasses.replace(copied, ranks=cell.ranks, training={**job.training, **split})


def run_of(job: Job, step: Step = Step.PREPARE, best_checkpoint: str | None = None) -> Run:
    return a_run(
        dataset=dict(job.dataset),
        model=job.model,
        task=job.task,
        step=step,
        training=dict(job.training),
        evaluation={"resamples": 200},
        lora=job.lora,
        best_checkpoint=best_checkpoint,
    )


def environment(job: Job, run: Run) -> RankEnvironment:
    return RankEnvironment.from_env(an_environment(job.folder, run, BASE=str(job.folder)))


def report_of(job: Job) -> PrepareReport:
    content = (job.workspace / LAYOUT.prepare_report).read_bytes()
    return PrepareReport.model_validate_json(content)


def undisturbed(job: Job, scratch: Path) -> dict[str, torch.Tensor]:
    """What a loop of plain torch ends with that steps through the same rows, alone and unsharded.

    Its weights, or of an adapted model the adapter's, by the names that a checkpoint gives them.
    """
    run, report, form = run_of(job), report_of(job), FORMS[job.task]
    folder = job.folder / "claims" / "models" / "tiny"
    loaded = load_model(folder, MODEL, form.head, report.labels, dropout=0.0, seed=42)
    model: Any = loaded.model
    row_loss = form.loss(loaded.model, report)
    if job.lora is not None:
        model = adapt(loaded.model, MODEL, Lora(**LORA), loaded.new_weights, seed=42)
    collation = form.batches(load_processor(folder, MODEL, form.head), MODEL)
    rows = PreparedRows.load(job.workspace / LAYOUT.prepared / "train", collation)
    training = run.training.model_copy(update={"micro_batch_size": 16, "accumulation_steps": 1})
    plan = StepPlan.of(training, rows=len(rows), world_size=1)
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0)
    model.train()
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()
    for batch in StepStream(rows, plan, rank=0, first_step=0, total_steps=STEPS):
        outputs = model(**model_inputs(batch), **form.call)
        losses = row_loss(outputs, batch) * batch["real"]
        torch.autograd.backward(losses.sum() / batch["batch_weight"])
        optimizer.step()
        optimizer.zero_grad()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    if job.lora is not None:
        save_adapter(model, scratch)
    else:
        model.save_pretrained(scratch)
    return weights_in(scratch)


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a folder holds, of a whole model or of an adapter.

    But not a bias of attention's keys: softmax takes no notice of it, its gradient is zero but for
    rounding, and Adam makes steps of any length of that.
    """
    (file,) = folder.glob("*model.safetensors")
    weights = load_file(file)
    return {name: one for name, one in weights.items() if not name.endswith(".key.bias")}
