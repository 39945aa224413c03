"""Takes a job of any task through all three steps, as an engine would. Used by the local tier.

The real prepare and evaluate steps run in this process, training in pods of its own.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.report import ExitCode, Step
from finetune_api.run import LAYOUT
from finetune_api.tasks import Task
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment, Workspace
from finetune_trainer.evaluation.step import evaluate
from harness.trainer import a_run, an_environment
from harness.training import Job, pods

ROWS = "rows.csv"
MODEL = "pvc://models/tiny-bert"


@dataclass(frozen=True)
class Done:
    """A job after its last step."""

    workspace: Workspace
    prepared: PrepareReport
    report: EvaluationReport

    @property
    def predictions(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(
            self.workspace.path(LAYOUT.predictions)
        ).to_pylist()
        return rows

    @property
    def model(self) -> Path:
        """The exported model's folder."""
        return self.workspace.path(LAYOUT.output_model)


def write_rows(folder: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV of rows where a job looks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ROWS).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def prepared(
    folder: Path,
    model: Path,
    task: Task,
    training: dict[str, Any],
    lora: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    **dataset: Any,
) -> PrepareReport:
    """Run the prepare step on the rows of a job's folder."""
    if not (folder / "claims").exists():
        shutil.copytree(model, folder / "claims" / "models" / "tiny-bert")
    run = a_run(
        dataset={"train": ROWS} | dataset,
        task=task,
        training=training,
        evaluation=evaluation,
        model=MODEL,
        lora=lora,
    )
    environment = an_environment(folder, run, BASE=str(folder))
    return prepare(RankEnvironment.from_env(environment), run)


def through_all_steps(
    folder: Path,
    model: Path,
    task: Task,
    *,
    training: dict[str, Any],
    evaluation: dict[str, Any],
    lora: dict[str, Any] | None = None,
    **dataset: Any,
) -> Done:
    """Prepare, train to the end of ``max_steps``, evaluate and export."""
    made = prepared(folder, model, task, training, lora, evaluation, **dataset)
    job = Job(folder, training, task=task, lora=lora)
    with pods(job, 1) as gang:
        code, said = gang[0].end()
    assert code == ExitCode.DONE, gang[0].log.read_text()
    assert said.train is not None
    run = a_run(
        dataset={"train": ROWS} | dataset,
        model=MODEL,
        step=Step.EVALUATE,
        task=task,
        training=training,
        evaluation={"resamples": 400} | evaluation,
        best_checkpoint=said.train.checkpoint,
        lora=lora,
    )
    environment = RankEnvironment.from_env(an_environment(folder, run, BASE=str(folder)))
    reference = evaluate(environment, run)
    workspace = Workspace(folder / "workspace")
    content = workspace.path(reference.path).read_bytes()
    return Done(workspace, made, EvaluationReport.model_validate_json(content))
