"""FineTuneJob: one fine-tune, from data to verdict. What a person writes.

A field stands here only together with the code that obeys it.
"""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api import API_VERSION
from finetune_api.compute import Compute
from finetune_api.dataset import Dataset
from finetune_api.evaluation import Evaluation
from finetune_api.markers import Cel, Contract, Kind, PrinterColumn, rules
from finetune_api.metadata import ObjectMeta
from finetune_api.model import ModelSource
from finetune_api.output import Credentials, Output
from finetune_api.policy import Budget, Policy
from finetune_api.status import JobStatus
from finetune_api.storage import Storage
from finetune_api.taskrules import task_rules
from finetune_api.tasks import Task
from finetune_api.training import Checkpoint, DeepSpeed, Training


@rules(
    Cel(
        "self.training.globalBatchSize % "
        "(self.compute.workers * (self.compute.gpusPerWorker > 0 ? self.compute.gpusPerWorker : 1))"
        " == 0",
        "training.globalBatchSize must be a multiple of compute.workers × gpusPerWorker, so that "
        "every rank gets as many rows",
    ),
    *task_rules(),
    Cel(
        f"self.task != '{Task.TEXT_CLASSIFICATION.value}' || !has(self.evaluation.threshold) || "
        "self.dataset.labels.size() <= 2",
        "evaluation.threshold: of more than two classes the likeliest is told; leave it out",
    ),
    Cel(
        "self.training.precision != 'fp16' || self.compute.gpusPerWorker > 0",
        "training.precision: fp16 needs GPUs: set compute.gpusPerWorker, or take bf16 or fp32",
    ),
)
class FineTuneJobSpec(Contract):
    """One fine-tune: this model, this data, this budget, these requirements."""

    task: Annotated[Task, Field(description="What the model learns to do.")]
    model: Annotated[ModelSource, Field(description="The model that is tuned.")]
    dataset: Annotated[Dataset, Field(description="The rows.")]
    training: Annotated[Training, Field(description="How it learns.")] = Training()
    deepspeed: Annotated[DeepSpeed, Field(description="Sharding.")] = DeepSpeed()
    compute: Annotated[Compute, Field(description="The gang.")] = Compute()
    storage: Annotated[Storage, Field(description="Where the work is kept.")] = Storage()
    checkpoint: Annotated[Checkpoint, Field(description="When the work is saved.")] = Checkpoint()
    evaluation: Annotated[Evaluation, Field(description="What is measured and required.")] = (
        Evaluation()
    )
    output: Annotated[Output, Field(description="Where the model goes.")] = Output()
    credentials: Annotated[Credentials, Field(description="Keys of object stores.")] = Credentials()
    budget: Annotated[Budget, Field(description="The most it may use.")] = Budget()
    policy: Annotated[Policy, Field(description="When things go wrong, and once it is over.")] = (
        Policy()
    )
    suspend: Annotated[
        bool, Field(description="true: save, stop, and wait; false again: go on from there.")
    ] = False


FROZEN_BLOCKS = (
    "task",
    "model",
    "dataset",
    "training",
    "deepspeed",
    "storage",
    "checkpoint",
    "evaluation",
    "output",
    "credentials",
)
"""Blocks of the spec that never change once a job is admitted; ``compute`` but for its workers."""
_FROZEN_COMPUTE = ("gpusPerWorker", "cpu", "memory", "nodeSelector", "tolerations")
_NOT_ADMITTED = (
    "!has(oldSelf.status) || !has(oldSelf.status.conditions) || "
    "!oldSelf.status.conditions.exists(c, c.type == 'Admitted' && c.status == 'True')"
)


@rules(
    Cel(
        "self.metadata.name.size() <= 40 && "
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be at most 40 characters of a-z, 0-9 and '-', start with a letter and "
        "end with a letter or digit, so that the names of its pods and Services are valid",
    ),
    Cel(
        f"{_NOT_ADMITTED} || ("
        + " && ".join(f"self.spec.{block} == oldSelf.spec.{block}" for block in FROZEN_BLOCKS)
        + ")",
        "an admitted job's spec is immutable, except suspend, budget, policy and (while suspended) "
        "compute.workers: create a new job instead",
    ),
    Cel(
        f"{_NOT_ADMITTED} || ("
        + " && ".join(
            f"self.spec.compute.{field} == oldSelf.spec.compute.{field}"
            for field in _FROZEN_COMPUTE
        )
        + " && has(self.spec.compute.gpuType) == has(oldSelf.spec.compute.gpuType)"
        " && (!has(self.spec.compute.gpuType)"
        " || self.spec.compute.gpuType == oldSelf.spec.compute.gpuType)"
        " && (self.spec.compute.workers == oldSelf.spec.compute.workers || oldSelf.spec.suspend))",
        "compute is immutable once the job is admitted; compute.workers may change while "
        "spec.suspend is true",
    ),
    Cel(
        "!has(oldSelf.status) || has(self.status)",
        "status can't be taken away: its attempt number would start anew",
    ),
)
class FineTuneJob(Contract):
    """One fine-tune, from data to verdict."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    metadata: ObjectMeta
    spec: FineTuneJobSpec
    status: JobStatus | None = None


KIND = Kind(
    kind="FineTuneJob",
    plural="finetunejobs",
    singular="finetunejob",
    scope="Namespaced",
    short_names=("ftj",),
    columns=(
        PrinterColumn("Phase", "string", ".status.phase"),
        PrinterColumn("Progress", "string", ".status.progress.percent"),
        PrinterColumn("ETA", "string", ".status.progress.eta"),
        PrinterColumn("Loss", "number", ".status.progress.loss"),
        PrinterColumn("Cost", "string", ".status.cost.display"),
        PrinterColumn("Attempt", "integer", ".status.attempt"),
        PrinterColumn("Reason", "string", ".status.reason"),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
    ),
)
