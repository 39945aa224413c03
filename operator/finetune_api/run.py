"""What the operator tells the trainer: the resolved run, its environment and its workspace.

The run is one JSON file per step (on a cluster a ConfigMap, one per Job). It says what to do; the
environment says who this process is, and changes with each attempt.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from finetune_api.balance import ClassWeights, Sampling
from finetune_api.dataset import Dataset
from finetune_api.evaluation import Evaluation
from finetune_api.health import EarlyStopping, Health
from finetune_api.images import Augmentation, BatchNorm
from finetune_api.markers import Contract, Digest, ShortText
from finetune_api.model import ModelSource
from finetune_api.output import Credentials, Output
from finetune_api.report import Step
from finetune_api.tasks import Task
from finetune_api.training import Offload, Precision, Scheduler, Truncation
from finetune_api.usage import JobReference

RUN_VERSION = 1
SMOKE_STEPS = 20


class RunTraining(Contract):
    """Every setting of the training, none left open."""

    epochs: float | None
    max_steps: int | None
    learning_rate: float
    global_batch_size: int
    micro_batch_size: int
    accumulation_steps: int
    scheduler: Scheduler
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    precision: Precision
    activation_checkpointing: bool
    compile: bool
    max_length: int | None
    """Tokens of the longest example; unset for images."""
    truncation: Truncation | None = None
    packing: bool = False
    dropout: float | None
    augmentation: Augmentation | None = None
    batch_norm: BatchNorm = BatchNorm.FROZEN
    evals_per_epoch: int
    class_weights: ClassWeights | None = None
    sampling: Sampling = Sampling.SHUFFLE
    early_stopping: EarlyStopping | None
    health: Health
    seed: int
    zero_stage: int
    offload: Offload
    checkpoint_every_steps: int
    checkpoint_keep: int


class Gang(Contract):
    """The processes of a step: ``workers`` pods with ``ranks_per_worker`` ranks each."""

    workers: Annotated[int, Field(ge=1)]
    ranks_per_worker: Annotated[int, Field(ge=1)]
    device: Literal["cpu", "cuda"]

    @property
    def world_size(self) -> int:
        """Ranks of the whole gang."""
        return self.workers * self.ranks_per_worker


class Run(Contract):
    """One step of one job, fully resolved."""

    version: Literal[1] = 1
    job: JobReference
    step: Step
    task: Task
    model: ModelSource
    dataset: Dataset
    training: RunTraining
    evaluation: Evaluation
    output: Output = Output()
    credentials: Credentials = Credentials()
    gang: Gang
    spec_digest: Digest
    smoke: bool = False
    best_checkpoint: Annotated[
        ShortText | None, Field(description="evaluate: the checkpoint that is scored.")
    ] = None


def steps_per_epoch(rows: int, global_batch_size: int) -> int:
    """Optimizer steps in one pass; the last, smaller batch counts."""
    return max(1, math.ceil(rows / global_batch_size))


def total_steps(run: RunTraining, rows: int) -> int:
    """Optimizer steps of the whole training."""
    if run.max_steps is not None:
        return run.max_steps
    if run.epochs is None:
        raise ValueError("training: neither epochs nor maxSteps is resolved")
    return max(1, math.ceil(run.epochs * steps_per_epoch(rows, run.global_batch_size)))


class Env(StrEnum):
    """Environment variables of a trainer pod. One place for their names."""

    RUN_FILE = "FINETUNE_RUN_FILE"
    WORKSPACE = "FINETUNE_WORKSPACE"
    CLAIMS = "FINETUNE_CLAIMS"
    BASE = "FINETUNE_BASE"
    ATTEMPT = "FINETUNE_ATTEMPT"
    WORKER = "FINETUNE_WORKER"
    POD_UID = "FINETUNE_POD_UID"
    MASTER_ADDR = "FINETUNE_MASTER_ADDR"
    MASTER_PORT = "FINETUNE_MASTER_PORT"
    LISTEN = "FINETUNE_LISTEN"
    TERMINATION_LOG = "FINETUNE_TERMINATION_LOG"
    GRACE_SECONDS = "FINETUNE_GRACE_SECONDS"
    REPORT_SECONDS = "FINETUNE_REPORT_SECONDS"
    FAKE_GPUS = "FINETUNE_FAKE_GPUS"
    COLLECTIVE_SECONDS = "FINETUNE_COLLECTIVE_SECONDS"


ENV_MEANING: dict[Env, str] = {
    Env.RUN_FILE: "Path of the run's JSON.",
    Env.WORKSPACE: "The job's own folder, shared by its pods.",
    Env.CLAIMS: "Folder in which each claim of pvc://CLAIM/PATH is a folder.",
    Env.BASE: "Local runs only: the folder that relative paths start from.",
    Env.ATTEMPT: "Number of this attempt; on a cluster from the downward API.",
    Env.WORKER: "Index of this pod in its gang.",
    Env.POD_UID: "UID of this pod; stands in /progress.",
    Env.MASTER_ADDR: "Host of worker 0, for the rendezvous.",
    Env.MASTER_PORT: "Port of the rendezvous.",
    Env.LISTEN: "HOST:PORT that worker 0 serves /progress and /metrics on, or /report.",
    Env.TERMINATION_LOG: "File for the termination message (4 KiB at most).",
    Env.GRACE_SECONDS: "Seconds from SIGTERM to SIGKILL.",
    Env.REPORT_SECONDS: "How long a pod that has prepared or evaluated serves /report, if nobody "
    "acknowledges it sooner; 0 or unset, as in a local run: not at all.",
    Env.FAKE_GPUS: "true on a test cluster whose nodes only claim to have accelerators: ranks "
    "compute on the CPU instead. Otherwise a rank that sees none ends as a fault of the node.",
    Env.COLLECTIVE_SECONDS: "How long ranks wait for each other in a step, and in a save that "
    "does not get on; 900 if it is unset.",
}


@dataclass(frozen=True)
class Layout:
    """Where things lie in a job's workspace; all paths are relative to it."""

    model: PurePosixPath = PurePosixPath("model")
    """A model that came from the hub."""
    prepared: PurePosixPath = PurePosixPath("data/prepared")
    test: PurePosixPath = PurePosixPath("data/test")
    baselines: PurePosixPath = PurePosixPath("data/baselines")
    prepare_report: PurePosixPath = PurePosixPath("data/report.json")
    checkpoints: PurePosixPath = PurePosixPath("checkpoints")
    tensorboard: PurePosixPath = PurePosixPath("tensorboard")
    output: PurePosixPath = PurePosixPath("output")
    output_model: PurePosixPath = PurePosixPath("output/model")
    suspects: PurePosixPath = PurePosixPath("output/suspects.csv")
    rendered_rows: PurePosixPath = PurePosixPath("output/rendered-rows.txt")
    predictions: PurePosixPath = PurePosixPath("output/predictions.parquet")
    losses: PurePosixPath = PurePosixPath("output/losses.parquet")
    evaluation_report: PurePosixPath = PurePosixPath("output/evaluation.json")

    def checkpoint(self, attempt: int, step: int) -> PurePosixPath:
        """Folder of one checkpoint."""
        return self.checkpoints / str(attempt) / str(step)


LAYOUT = Layout()
CHECKPOINT_MANIFEST = "COMPLETE"
"""Name of the file without which a checkpoint does not exist."""
