"""Builds what a trainer process is told: its run and its environment. Used by the local tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_api.dataset import Dataset
from finetune_api.evaluation import Evaluation
from finetune_api.model import ModelSource
from finetune_api.report import Step
from finetune_api.run import Env, Gang, Run, RunTraining
from finetune_api.tasks import Task
from finetune_api.training import Precision, Scheduler
from finetune_api.usage import JobReference

A_DIGEST = "sha256:" + "0" * 64


def a_run(
    *,
    dataset: dict[str, Any],
    model: str = "pvc://models/tiny-bert",
    step: Step = Step.PREPARE,
    training: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    gang: dict[str, Any] | None = None,
    best_checkpoint: str | None = None,
    lora: dict[str, Any] | None = None,
    task: Task = Task.TEXT_CLASSIFICATION,
) -> Run:
    """Resolve a small run; `training` and `gang` replace defaults by field name, `lora` sets it."""
    settings: dict[str, Any] = {
        "epochs": 2.0,
        "max_steps": None,
        "learning_rate": 3e-3,
        "global_batch_size": 16,
        "micro_batch_size": 8,
        "accumulation_steps": 2,
        "scheduler": Scheduler.LINEAR,
        "warmup_ratio": 0.06,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "precision": Precision.FP32,
        "activation_checkpointing": False,
        "compile": False,
        "max_length": 32,
        "dropout": 0.0,
        "evals_per_epoch": 2,
        "early_stopping": None,
        "health": {},
        "seed": 42,
        "zero_stage": 2,
        "offload": "none",
        "checkpoint_every_steps": 10,
        "checkpoint_keep": 2,
    }
    processes = {"workers": 1, "ranks_per_worker": 1, "device": "cpu"} | (gang or {})
    return Run(
        job=JobReference(namespace="default", name="a-job", uid="uid-1"),
        step=step,
        task=task,
        model=ModelSource.model_validate({"uri": model} | _method(lora)),
        dataset=Dataset.model_validate(dataset),
        training=RunTraining.model_validate(settings | (training or {})),
        evaluation=Evaluation.model_validate(evaluation or {}),
        gang=Gang.model_validate(processes),
        spec_digest=A_DIGEST,
        best_checkpoint=best_checkpoint,
    )


def _method(lora: dict[str, Any] | None) -> dict[str, Any]:
    return {} if lora is None else {"method": "lora", "lora": lora}


def an_environment(folder: Path, run: Run, **extra: str) -> dict[str, str]:
    """Write the run below `folder` and name it, the workspace and the claims as an engine does.

    `extra` adds or replaces variables by the names of `finetune_api.run.Env`, such as `BASE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run_file = folder / f"run-{run.step.value}.json"
    run_file.write_text(run.model_dump_json(by_alias=True))
    workspace = folder / "workspace"
    claims = folder / "claims"
    for path in (workspace, claims):
        path.mkdir(exist_ok=True)
    return {
        Env.RUN_FILE.value: str(run_file),
        Env.WORKSPACE.value: str(workspace),
        Env.CLAIMS.value: str(claims),
        Env.ATTEMPT.value: "1",
        Env.TERMINATION_LOG.value: str(folder / "termination.json"),
        **{Env[name].value: value for name, value in extra.items()},
    }
