"""How a job learns: the blocks `training`, `deepspeed` and `checkpoint` of its spec."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.balance import ClassWeights, Sampling
from finetune_api.health import EarlyStopping, Health
from finetune_api.images import Augmentation, BatchNorm
from finetune_api.markers import Cel, Contract, rules


class Scheduler(StrEnum):
    """How the learning rate falls after warm-up (names of transformers)."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class Precision(StrEnum):
    """The arithmetic of the forward and backward pass; master weights are fp32 in each."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Offload(StrEnum):
    """What lies in the host's memory instead of the device's."""

    NONE = "none"
    OPTIMIZER = "optimizer"
    PARAMETERS = "parameters"


class Truncation(StrEnum):
    """What becomes of a row of language data that is longer than ``training.maxLength``."""

    DROP = "drop"
    KEEP_START = "keepStart"
    KEEP_END = "keepEnd"


@rules(
    Cel(
        "!(has(self.epochs) && has(self.maxSteps))",
        "training.epochs and training.maxSteps exclude each other: keep one",
    ),
    Cel(
        "!has(self.classWeights) || self.sampling == 'shuffle'",
        "training.classWeights and sampling: balanced both make up for rare classes; keep one",
    ),
    Cel(
        "!has(self.batchNorm) || self.batchNorm == 'frozen' || !self.activationCheckpointing",
        "training.activationCheckpointing would count each batch twice in the statistics of "
        "training.batchNorm train: keep one",
    ),
)
class Training(Contract):
    """How the model learns. What is left out comes from the task's recipe; see status.resolved."""

    epochs: Annotated[
        float | None,
        Field(gt=0, le=1000, description="Passes over the training rows (recipe: 3)."),
    ] = None
    max_steps: Annotated[
        int | None, Field(ge=1, le=10_000_000, description="Optimizer steps, instead of epochs.")
    ] = None
    learning_rate: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="Peak learning rate of AdamW (recipe: 3e-5, causal-lm 1e-5, "
            "image-classification 5e-5; with method lora 2e-4).",
        ),
    ] = None
    global_batch_size: Annotated[
        int,
        Field(
            ge=1,
            le=65_536,
            description="Rows per optimizer step over all ranks. Micro-batch and accumulation "
            "follow from it and the number of ranks, so that pods don't change the result.",
        ),
    ] = 32
    max_micro_batch_size: Annotated[
        int,
        Field(ge=1, le=4096, description="The most rows that one rank computes at once."),
    ] = 16
    scheduler: Annotated[Scheduler, Field(description="Decay of the learning rate.")] = (
        Scheduler.LINEAR
    )
    warmup_ratio: Annotated[
        float, Field(ge=0, le=1, description="Share of the steps in which the rate rises.")
    ] = 0.06
    weight_decay: Annotated[
        float, Field(ge=0, le=1, description="AdamW's decay; not on biases and norms.")
    ] = 0.0
    max_grad_norm: Annotated[
        float, Field(gt=0, le=1000, description="Gradients are clipped to this norm.")
    ] = 1.0
    precision: Annotated[
        Precision,
        Field(
            description="auto: bf16 on a GPU that has it, else fp32. fp16 is for GPUs without "
            "bf16; its loss is scaled, and a step whose gradients overflow is left out."
        ),
    ] = Precision.AUTO
    activation_checkpointing: Annotated[
        bool,
        Field(
            description="Compute activations again in the backward pass instead of keeping them: "
            "less memory, more time. After running out of memory it is tried in any case."
        ),
    ] = False
    compile: Annotated[
        bool,
        Field(
            description="Compile the model (torch.compile): faster steps after a slow start. It "
            "needs a C++ compiler in the image."
        ),
    ] = False
    max_length: Annotated[
        int | None,
        Field(
            ge=8,
            le=131_072,
            description="Tokens per row; longer rows are cut, counted (recipe: 256, causal-lm "
            "2048). Images have none.",
        ),
    ] = None
    truncation: Annotated[
        Truncation | None,
        Field(
            description="causal-lm: what becomes of rows that are longer. drop: they are left out. "
            "keepStart: the end is cut, and with it what stands there of an answer. keepEnd: the "
            "beginning is cut. All are counted and named in the data report (recipe: drop)."
        ),
    ] = None
    packing: Annotated[
        bool | None,
        Field(
            description="causal-lm: short rows share a sequence, each for itself, which changes "
            "nothing but the time. A model that sees over their borders trains unpacked (recipe: "
            "true)."
        ),
    ] = None
    dropout: Annotated[
        float | None,
        Field(ge=0, lt=1, description="Overrides every dropout rate of the model's configuration."),
    ] = None
    augmentation: Annotated[
        Augmentation | None,
        Field(description="image-classification: how training images are varied (recipe: not)."),
    ] = None
    batch_norm: Annotated[
        BatchNorm | None,
        Field(
            description="image-classification: the statistics of batch normalization. frozen: they "
            "stay the model's own, and results don't depend on the ranks. train: each rank "
            "normalizes by its micro-batch, and all keep their mean; for models that begin anew "
            "(recipe: frozen)."
        ),
    ] = None
    evals_per_epoch: Annotated[
        int,
        Field(ge=1, le=100, description="Evaluations on the select rows; the best one is kept."),
    ] = 2
    class_weights: Annotated[
        ClassWeights | None,
        Field(
            description="Classes weigh differently in the training loss, and in that of the select "
            "rows; by default all weigh 1. Probabilities are then those of such a mixture of "
            "classes, too high for the rare ones."
        ),
    ] = None
    sampling: Annotated[
        Sampling,
        Field(
            description="shuffle: an epoch has every training row once. balanced: it has as many "
            "rows, as many of each class: those of rare classes several times, of frequent ones "
            "some. Probabilities are then too high for rare classes."
        ),
    ] = Sampling.SHUFFLE
    early_stopping: Annotated[
        EarlyStopping | None,
        Field(description="End once it does not get better any more; by default it goes on."),
    ] = None
    health: Annotated[Health, Field(description="Signs of a training that goes wrong.")] = Health()
    seed: Annotated[
        int, Field(ge=0, le=2_147_483_647, description="Seed of the new head, order and dropout.")
    ] = 42


@rules(
    Cel(
        "self.offload != 'optimizer' || !has(self.zeroStage) || self.zeroStage >= 1",
        "deepspeed.offload: optimizer needs zeroStage 1, 2 or 3, or none",
    ),
    Cel(
        "self.offload != 'parameters' || !has(self.zeroStage) || self.zeroStage == 3",
        "deepspeed.offload: parameters needs zeroStage 3, or none",
    ),
)
class DeepSpeed(Contract):
    """DeepSpeed's part; the configuration file itself is made by the trainer."""

    zero_stage: Annotated[
        int | None,
        Field(
            ge=0,
            le=3,
            description="What is sharded over ranks: 0 nothing, 1 optimizer, 2 and gradients, "
            "3 and weights. Unset: 2, or 3 where 2 would not fit the devices by the memory "
            "estimate; decided once the model's facts are known.",
        ),
    ] = None
    offload: Annotated[
        Offload,
        Field(
            description="What the host's memory holds instead of the device's. optimizer: its "
            "state, and its work is then the CPU's. parameters: that and the weights."
        ),
    ] = Offload.NONE


class Checkpoint(Contract):
    """When the work is saved."""

    every_steps: Annotated[
        int, Field(ge=1, le=1_000_000, description="Save after so many optimizer steps.")
    ] = 200
    keep: Annotated[
        int,
        Field(ge=1, le=20, description="Newest complete checkpoints kept, besides the best one."),
    ] = 2
