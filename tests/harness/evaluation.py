"""Builds a job that is ready to be evaluated: real prepared rows, and a checkpoint of a model.

The model is trained by a plain loop that shares no code with the trainer. Used by the local tier.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import load_from_disk
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.report import Step
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT, Run
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment, Workspace
from finetune_trainer.evaluation.step import evaluate
from finetune_trainer.training.manifest import (
    Identity,
    Manifest,
    TrainingState,
    digest_files,
    files_of,
)
from harness.trainer import a_run, an_environment

RECOMPUTE = Path(__file__).parents[2] / "examples" / "recompute.py"
STEP = 60
MAX_LENGTH = 12
"""Cuts the longer ones of the tiny sentences."""
OUT_OF_REACH = {
    "gate": [{"name": "out-of-reach", "metric": "accuracy", "min": 1, "bound": "Lower"}]
}
"""No model passes it, so that nothing is exported: the export takes its time."""


@dataclass(frozen=True)
class Job:
    """A prepared job in a folder of its own."""

    folder: Path
    dataset: dict[str, Any]
    prepared: PrepareReport
    evaluation: dict[str, Any] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "workspace")

    def run(self, evaluation: dict[str, Any] | None = None, **changes: Any) -> Run:
        """The evaluate step's run; `changes` replace its fields."""
        run = a_run(
            dataset=self.dataset,
            model="model",
            step=Step.EVALUATE,
            training={"max_length": MAX_LENGTH},
            evaluation={"resamples": 400} | self.evaluation | (evaluation or {}),
            best_checkpoint=str(LAYOUT.checkpoint(1, STEP)),
        )
        return run.model_copy(update=changes)

    def environment(self, run: Run) -> dict[str, str]:
        return an_environment(self.folder, run, BASE=str(self.folder))

    def evaluate(self, run: Run) -> EvaluationReport:
        """Do the step in this process and read what it wrote."""
        reference = evaluate(RankEnvironment.from_env(self.environment(run)), run)
        return EvaluationReport.model_validate_json(
            self.workspace.path(reference.path).read_bytes()
        )

    def save_checkpoint(self, model: PreTrainedModel, **identity: str) -> Path:
        """Write a complete checkpoint; `identity` replaces what its manifest says of the job."""
        return self.write_checkpoint(model.save_pretrained, **identity)

    def write_checkpoint(self, write: Callable[[Path], object], **identity: str) -> Path:
        """The same, of what `write` writes into its folder."""
        folder = self.workspace.path(LAYOUT.checkpoint(1, STEP))
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
        known = {
            "spec_digest": self.run().spec_digest,
            "split_digest": self.prepared.data.split_digest,
        }
        manifest = Manifest(
            attempt=1,
            identity=Identity(**(known | identity), world_size=2),
            state=TrainingState(step=STEP),
            files=tuple(digest_files(folder, files_of(folder))),
        )
        (folder / CHECKPOINT_MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
        return folder


def recompute(output: Path) -> set[str]:
    """Run `examples/recompute.py` on an evaluation; the names of the figures that it confirmed."""
    done = subprocess.run(
        [sys.executable, RECOMPUTE, output],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join(line for line in lines if line[:2] != "ok") + done.stderr
    return {line[8:58].strip() for line in lines}


def a_prepared_job(
    folder: Path,
    tiny_model: Path,
    rows: Path | Sequence[tuple[str, ...]],
    evaluation: dict[str, Any] | None = None,
    **dataset: Any,
) -> Job:
    """Run the real prepare step on a CSV, or on rows of (id, text, label, further columns).

    `evaluation` is what the job's evaluate step has, too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, Path):
        (folder / "rows.csv").write_bytes(rows.read_bytes())
    else:
        with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    (folder / "model").symlink_to(tiny_model)
    settings = {"train": "rows.csv", "columns": {"id": "id"}} | dataset
    run = a_run(
        dataset=settings,
        model="model",
        training={"max_length": MAX_LENGTH},
        evaluation=evaluation,
    )
    environment = an_environment(folder, run, BASE=str(folder))
    report = prepare(RankEnvironment.from_env(environment), run)
    return Job(folder, settings, report, evaluation or {})


def a_trained_model(
    job: Job, tiny_model: Path, relabel: Callable[[list[int]], list[int]] = lambda labels: labels
) -> PreTrainedModel:
    """Train the tiny model on the job's training rows, in a plain loop; the same each time."""
    names = job.prepared.labels
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        tiny_model,
        dtype=torch.float32,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    rows = load_from_disk(str(job.workspace.path(LAYOUT.prepared) / "train"))
    labels = torch.tensor(relabel(list(rows["label"])))
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows["input_ids"]], batch_first=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(STEP):
        chosen = torch.randperm(len(ids))[:32]
        output = model(
            input_ids=ids[chosen], attention_mask=ids[chosen] != 0, labels=labels[chosen]
        )
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model
