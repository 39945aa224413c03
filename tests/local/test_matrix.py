"""Every kind of model by every way of training it: stopped, resumed, evaluated and exported.

Here a covering selection; ``make test-matrix`` takes all of them.
"""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoConfig, pipeline

from finetune_api.evaluationreport import EvaluationReport
from finetune_api.report import ExitCode, Step
from finetune_api.run import LAYOUT
from finetune_api.tasks import Task
from finetune_trainer.evaluation.step import evaluate
from harness import matrix
from harness.matrix import COVERING, EVERY, STEPS, Cell
from harness.training import Job, pods

TOLERANCE = 1e-4
ASKED = 5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Cell], Job]:
    """Prepares each architecture and method once."""

    @functools.cache
    def make(architecture: str, method: str) -> Job:
        folder = tmp_path_factory.mktemp("matrix") / f"{architecture}-{method}"
        return matrix.prepared(folder, Cell(architecture, method, 0, 1))

    return lambda cell: make(cell.architecture, cell.method)


@pytest.fixture(scope="module")
def undisturbed(
    prepared: Callable[[Cell], Job], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Cell], dict[str, torch.Tensor]]:
    """Trains each architecture and method once in a plain loop."""

    @functools.cache
    def make(architecture: str, method: str) -> dict[str, torch.Tensor]:
        job = prepared(Cell(architecture, method, 0, 1))
        return matrix.undisturbed(job, tmp_path_factory.mktemp("loop"))

    return lambda cell: make(cell.architecture, cell.method)


@pytest.mark.parametrize("cell", matrix.chosen(), ids=str)
def test_a_job_is_stopped_and_resumed_exactly_evaluated_and_exported(
    cell: Cell,
    prepared: Callable[[Cell], Job],
    undisturbed: Callable[[Cell], dict[str, torch.Tensor]],
    tmp_path: Path,
) -> None:
    job = matrix.on(prepared(cell), tmp_path / "job", cell)
    stopped_at = stop_amid_its_steps(job)
    checkpoint = resume(job, stopped_at, packed=cell.architecture == "llama")
    ended = matrix.weights_in(job.workspace / LAYOUT.checkpoint(2, STEPS))
    torch.testing.assert_close(ended, undisturbed(cell), atol=TOLERANCE, rtol=0)
    run = matrix.run_of(job, Step.EVALUATE, checkpoint)
    reference = evaluate(matrix.environment(job, run), run)
    content = (job.workspace / reference.path).read_bytes()
    assert_scored_once_and_exported(job, EvaluationReport.model_validate_json(content))


def stop_amid_its_steps(job: Job) -> int:
    with pods(job, 1) as (pod,):
        pod.wait_until(lambda progress: progress.step >= 2)
        pod.process.terminate()
        code, said = pod.end()
        assert code == ExitCode.STOPPED, pod.log.read_text()
    step = said.marks.checkpoint_step
    assert step is not None
    assert 2 <= step < STEPS
    return step


def resume(job: Job, stopped_at: int, *, packed: bool) -> str:
    """Train to the end; the best checkpoint."""
    with pods(job, 2) as (pod,):
        code, said = pod.end()
        assert code == ExitCode.DONE, pod.log.read_text()
    assert (said.marks.resumed_from_attempt, said.marks.resumed_from_step) == (1, stopped_at)
    assert said.train is not None
    assert (said.train.packed_fill is not None) is packed
    return said.train.checkpoint


def assert_scored_once_and_exported(job: Job, report: EvaluationReport) -> None:
    """Each test row is predicted once, and a plain pipeline says the same of it."""
    table = pq.read_table(job.workspace / LAYOUT.predictions)
    rows: list[dict[str, Any]] = table.to_pylist()
    assert len({row["row_id"] for row in rows}) == len(rows)
    assert len(rows) == matrix.report_of(job).data.test_rows
    export = job.workspace / LAYOUT.output_model
    assert report.model is not None, "the proof: another process's pipeline answered the same"
    if job.task is Task.CAUSAL_LM:
        (answer,) = pipeline("text-generation", model=str(export))("red", max_new_tokens=2)
        assert answer["generated_text"].startswith("red")
        return
    assert tuple(AutoConfig.from_pretrained(export).id2label.values()) == report.labels
    for row, answer in zip(rows, asked(job, export, rows[:ASKED]), strict=False):
        found = {one["label"]: one["score"] for one in answer}
        expected = dict(zip(report.labels, row["probabilities"], strict=True))
        assert found == pytest.approx(expected, abs=1e-5)


def asked(job: Job, export: Path, rows: list[dict[str, Any]]) -> list[Any]:
    """What a plain pipeline says of test rows."""
    names = [row["row_id"] for row in rows]
    if job.task is Task.IMAGE_CLASSIFICATION:
        files = [str(job.folder / "images" / name) for name in names]
        return list(pipeline("image-classification", model=str(export))(files, top_k=10))
    with (job.folder / "rows.csv").open() as file:
        texts = {row["id"]: row["text"] for row in csv.DictReader(file)}
    classify = pipeline("text-classification", model=str(export))
    return list(classify([texts[name] for name in names], top_k=None))


def test_the_covering_cells_have_every_pair_of_values_but_architecture_and_stage() -> None:
    axes = ("architecture", "method", "zero_stage", "ranks")
    for one, other in itertools.combinations(axes, 2):
        if (one, other) == ("architecture", "zero_stage"):
            continue
        wanted = {(getattr(cell, one), getattr(cell, other)) for cell in EVERY}
        assert {(getattr(cell, one), getattr(cell, other)) for cell in COVERING} == wanted
    assert set(COVERING) <= set(EVERY)
    assert len(EVERY) == 72
