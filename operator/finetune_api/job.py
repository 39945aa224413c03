"""FineTuneJob: one fine-tune, from data to verdict. What a person writes.

A field stands here only together with the code that obeys it.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api import API_VERSION
from finetune_api.balance import ClassWeights, Sampling
from finetune_api.compute import Compute
from finetune_api.health import EarlyStopping, Health
from finetune_api.images import Augmentation, BatchNorm
from finetune_api.lora import Lora, Method
from finetune_api.markers import (
    NAME_FORM,
    Cel,
    Contract,
    Currency,
    Decimal,
    Kind,
    Label,
    LabelValue,
    ListMap,
    PrinterColumn,
    QualifiedName,
    ShortText,
    Uri,
    rules,
)
from finetune_api.output import Credentials, Output
from finetune_api.status import JobStatus
from finetune_api.storage import Storage
from finetune_api.tasks import METRICS, RATES, TASKS, Baseline, Metric, Task


class DataFormat(StrEnum):
    """How rows are written; ``auto`` goes by the file's ending."""

    AUTO = "auto"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    CONLL = "conll"


class TagScheme(StrEnum):
    """How the tags of words mark spans."""

    IOB2 = "iob2"
    IOB1 = "iob1"
    BIOES = "bioes"
    PLAIN = "plain"


class SplitStrategy(StrEnum):
    """How a row gets its role."""

    HASH = "hash"
    STRATIFIED = "stratified"


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


class GateBound(StrEnum):
    """Which side of the estimate has to pass: the value itself, or an end of its interval."""

    POINT = "Point"
    LOWER = "Lower"
    UPPER = "Upper"


SUPPORTED_SCHEMES = ("pvc", "https", "s3")
_CLAIM_URI = f"pvc://{NAME_FORM}/.+"
_URI_RULE = f"!self.contains('://') || self.matches('^({_CLAIM_URI}|(https|s3)://.+)')"


@rules(
    Cel(
        f"!self.uri.contains('://') || self.uri.matches('^{_CLAIM_URI}')",
        "model.uri must be pvc://CLAIM/PATH, or in a local run a path relative to the manifest",
    ),
    Cel(
        "!has(self.lora) || self.method == 'lora'",
        "model.lora goes with model.method lora: set it, or take model.lora out",
    ),
)
class ModelSource(Contract):
    """The model that is tuned: a folder as `save_pretrained` writes it, weights in safetensors."""

    uri: Annotated[
        Uri,
        Field(
            description="pvc://CLAIM/PATH of the model's folder. In a local run also a path "
            "relative to the manifest; pvc://CLAIM/PATH is then claims/CLAIM/PATH in the workspace."
        ),
    ]
    method: Annotated[
        Method,
        Field(
            description="full: every weight of the model is trained. lora: small matrices beside "
            "its linear layers, and the head (of causal-lm the matrices alone)."
        ),
    ] = Method.FULL
    lora: Annotated[Lora | None, Field(description="How method lora does it.")] = None

    @property
    def adaptation(self) -> Lora | None:
        """How method lora does it, defaults filled in; None with method full."""
        return (self.lora or Lora()) if self.method is Method.LORA else None


@rules(
    Cel(
        "has(self.prompt) == has(self.completion)",
        "dataset.columns: prompt and completion go together; name both, or neither",
    ),
    Cel(
        "!has(self.messages) || !has(self.prompt)",
        "dataset.columns: messages excludes prompt and completion: keep one form",
    ),
    Cel(
        "!has(self.tools) || has(self.messages)",
        "dataset.columns.tools goes with dataset.columns.messages",
    ),
)
class Columns(Contract):
    """Which columns of the data carry what."""

    text: Annotated[ShortText, Field(description="The column with the input text.")] = "text"
    label: Annotated[
        ShortText,
        Field(
            description="The column with the class, or with the number that is to be told. Of "
            "several labels a list, or a text with | between them; empty for none of them."
        ),
    ] = "label"
    prompt: Annotated[
        ShortText | None,
        Field(description="causal-lm: the column with what is read, and not learned."),
    ] = None
    completion: Annotated[
        ShortText | None,
        Field(description="causal-lm: the column with what is learned after the prompt."),
    ] = None
    messages: Annotated[
        ShortText | None,
        Field(
            description="causal-lm: the column with chats, lists of {role, content}; what the "
            "assistant says is learned, by its message's weight (0 to 1) where it has one."
        ),
    ] = None
    tools: Annotated[
        ShortText | None,
        Field(description="causal-lm: the column with a chat's tools, as a list or as its JSON."),
    ] = None
    tokens: Annotated[
        ShortText | None,
        Field(
            description="token-classification: the column with a row's words, a list of texts "
            "(recipe: tokens)."
        ),
    ] = None
    tags: Annotated[
        ShortText | None,
        Field(
            description="token-classification: the column with as many tags, each a text, or a "
            "number that counts dataset.labels from 0 (recipe: tags)."
        ),
    ] = None
    image: Annotated[
        ShortText | None,
        Field(
            description="image-classification: the column with the image, as its bytes or as a "
            "path from the file's own folder (recipe: image; in a file called metadata file_name)."
        ),
    ] = None
    id: Annotated[
        ShortText | None,
        Field(description="A column that names the row in reports; by default its row number."),
    ] = None
    group: Annotated[
        ShortText | None,
        Field(
            description="Rows with the same value here stay together in one role (a patient, an "
            "author, a document), and intervals are resampled by it."
        ),
    ] = None


class Cleaning(Contract):
    """What is done to the rows before they are split; each step is counted and shown."""

    markup: Annotated[
        bool,
        Field(
            description="Take HTML tags and entities out (not of the rows of causal-lm and "
            "token-classification)."
        ),
    ] = True
    unicode_form: Annotated[
        Literal["NFC", "NFKC", "None"], Field(description="The Unicode form that texts get.")
    ] = "NFC"
    min_characters: Annotated[
        int, Field(ge=1, le=10_000, description="Rows with a shorter text are dropped.")
    ] = 1
    deduplicate: Annotated[
        bool, Field(description="Keep one of the rows that have the same input and the same label.")
    ] = True
    conflicts: Annotated[
        Literal["drop", "keep"],
        Field(
            description="What happens to equal inputs with different labels; a question may have "
            "several answers, so that causal-lm keeps them."
        ),
    ] = "drop"
    drop_labels: Annotated[
        tuple[ShortText, ...],
        Field(max_length=50, description="Rows with one of these labels are dropped and counted."),
    ] = ()


@rules(
    Cel(
        "self.select + self.test < 90",
        "dataset.split: select and test together must leave more than 10 percent to train on",
    )
)
class Split(Contract):
    """Which share of the rows trains, selects and tests. What is left of 100 trains."""

    select: Annotated[
        int,
        Field(
            ge=1,
            le=50,
            description="Percent of rows that choose the best checkpoint and nothing else.",
        ),
    ] = 8
    test: Annotated[
        int,
        Field(
            ge=1,
            le=50,
            description="Percent of rows that only the evaluate step sees. Unused where "
            "dataset.test names a set of its own.",
        ),
    ] = 20
    seed: Annotated[int, Field(ge=0, le=2_147_483_647, description="Seed of the hash.")] = 0
    strategy: Annotated[
        SplitStrategy,
        Field(
            description="hash: the input's seeded hash against a threshold, so that added rows "
            "move nobody. stratified: ranked by that hash within each class, for rare classes."
        ),
    ] = SplitStrategy.HASH


@rules(
    Cel(
        _URI_RULE.replace("self", "self.train"),
        "dataset.train must be pvc://CLAIM/PATH, https://… or s3://…, or in a local run a path",
    ),
    Cel(
        f"!has(self.test) || {_URI_RULE.replace('self', 'self.test')}",
        "dataset.test must be pvc://CLAIM/PATH, https://… or s3://…, or in a local run a path",
    ),
    Cel(
        "self.labels.size() != 1",
        "dataset.labels: one class can't be classified; name at least two, or leave it out",
    ),
    Cel(
        "!self.cleaning.dropLabels.exists(one, one in self.labels)",
        "dataset.cleaning.dropLabels: a label of dataset.labels stands there too; keep it in one "
        "of them",
    ),
)
class Dataset(Contract):
    """The rows: where they are, what they mean, how they are cleaned and split."""

    train: Annotated[
        Uri, Field(description="pvc://CLAIM/PATH, https://…, s3://…; in a local run also a path.")
    ]
    test: Annotated[
        Uri | None,
        Field(
            description="Test rows of their own. Rows that train also holds are taken out there."
        ),
    ] = None
    format: Annotated[
        DataFormat,
        Field(
            description="auto goes by the file's ending. conll (token-classification): a word and "
            "its tag in a line, the first and the last of its columns, and an empty line between "
            "rows."
        ),
    ] = DataFormat.AUTO
    columns: Annotated[Columns, Field(description="Which column carries what.")] = Columns()
    labels: Annotated[
        tuple[ShortText, ...],
        Field(
            max_length=200,
            description="The classes in the order of the model's outputs; by default those of the "
            "data, sorted. A label that is not named here is an error.",
        ),
    ] = ()
    tag_scheme: Annotated[
        TagScheme | None,
        Field(
            description="token-classification: iob2: B-TYPE begins a span, I-TYPE goes on, O is "
            "outside. iob1 (B- only between spans of a type) and bioes (or BILOU) are read as "
            "iob2, which is what the model learns. plain: each word has a tag of its own, as parts "
            "of speech have (recipe: iob2)."
        ),
    ] = None
    cleaning: Annotated[Cleaning, Field(description="Steps before the split.")] = Cleaning()
    max_dropped_percent: Annotated[
        int | None,
        Field(
            ge=0,
            le=100,
            description="The most rows that may be left out; more are an error (recipe: 5). "
            "causal-lm: because they are too long, or no token of them is learned. "
            "image-classification: because they hold no image that can be used.",
        ),
    ] = None
    split: Annotated[Split, Field(description="Shares of the three roles.")] = Split()
    limit: Annotated[
        int | None,
        Field(
            ge=10,
            le=1_000_000_000,
            description="Use a random sample of so many rows (never the first ones).",
        ),
    ] = None


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


THRESHOLD_PATTERN = "^(tune|0[.][0-9]{0,3}[1-9])$"
_FALLING = [
    metric.value
    for metric, facts in METRICS.items()
    if facts.lower_is_better and metric not in RATES
]
_BELOW_ZERO = [metric.value for metric, facts in METRICS.items() if (facts.floor or 0) < 0]


@rules(
    Cel(
        "self.metric == 'errorReduction' || !has(self.against)",
        "evaluation.gate: against goes with metric errorReduction",
    ),
    Cel(
        "has(self.group) == has(self.maxShortfall)",
        "evaluation.gate: group and maxShortfall go together; name both, or neither",
    ),
    Cel(
        "has(self.group) || !has(self.insufficient)",
        "evaluation.gate: insufficient goes with group; leave it out",
    ),
    Cel(
        "!has(self.maxShortfall) || (!has(self.min) && !has(self.max))",
        "evaluation.gate: maxShortfall stands instead of min and max; leave them out",
    ),
    Cel(
        f"has(self.maxShortfall) || (self.metric in {_FALLING} ? has(self.max) && !has(self.min) : "
        "has(self.min) && !has(self.max))",
        f"evaluation.gate: {', '.join(_FALLING)} are held to a max, every other metric to a min",
    ),
    Cel(
        "self.bound == 'Point' || (self.bound == 'Lower') == has(self.min)",
        "evaluation.gate: bound Lower goes with min, bound Upper with max and maxShortfall",
    ),
    Cel(
        f"!has(self.min) || self.min >= 0.0 || self.metric in {_BELOW_ZERO}",
        f"evaluation.gate: min below 0 makes sense for {', '.join(_BELOW_ZERO)} only",
    ),
)
class GateRule(Contract):
    """One requirement: the model is exported only if every one of them holds."""

    name: Annotated[Label, Field(description="A name for reports.")]
    metric: Annotated[Metric, Field(description="What is measured on the test rows.")]
    min: Annotated[
        float | None, Field(ge=-1, le=1, description="The least that passes: more is better.")
    ] = None
    max: Annotated[
        float | None,
        Field(ge=0, le=1e12, description="The most that passes, where less is better."),
    ] = None
    bound: Annotated[
        GateBound,
        Field(
            description="Lower, Upper: the 95 % interval's lower end must reach min, its upper end "
            "stay within max, not only the value."
        ),
    ] = GateBound.POINT
    against: Annotated[
        Baseline | None,
        Field(description="The baseline of errorReduction (by default the task's last one)."),
    ] = None
    group: Annotated[
        ShortText | None,
        Field(description="A column of evaluation.groups, whose groups are all held to this."),
    ] = None
    max_shortfall: Annotated[
        float | None,
        Field(
            ge=0,
            le=1e12,
            description="The most by which a group may be worse than all other rows; of "
            "selectionRate the most by which it may differ. With bound Upper the upper end of the "
            "shortfall's interval must stay within it.",
        ),
    ] = None
    insufficient: Annotated[
        Literal["fail", "pass"] | None,
        Field(
            description="What it means where a group has too few rows to be compared (default: "
            "fail)."
        ),
    ] = None


@rules(
    Cel(
        "self.groups.all(one, self.groups.exists_one(other, other == one))",
        "evaluation.groups: a column stands there twice; name it once",
    ),
    Cel(
        "self.gate.all(g, !has(g.group) || g.group in self.groups)",
        "evaluation.gate: group names a column that is not in evaluation.groups; add it there",
    ),
)
class Evaluation(Contract):
    """What is measured on the test rows, and what the model must reach."""

    gate: Annotated[
        tuple[GateRule, ...],
        ListMap(("name",)),
        Field(max_length=20, description="Requirements; without one, every model passes."),
    ] = ()
    groups: Annotated[
        tuple[ShortText, ...],
        Field(
            max_length=3,
            description="Columns by whose values test rows are grouped (a dialect, a source, an "
            "age bracket): is the model worse for one of them? Up to 20 values each, as names and "
            "not as numbers; rows without one are a group of their own. The names of the groups, "
            "and no row, stand in the status.",
        ),
    ] = ()
    threshold: Annotated[
        str | None,
        StringConstraints(pattern=THRESHOLD_PATTERN, max_length=6),
        Field(
            description="The probability from which a label is told, such as '0.5', or tune: for "
            "each label the one of the best F1 on the select rows. Of two classes it is that of "
            "the last, by the mean F1 of both; more than two have none. It leaves with the model, "
            "in its configuration and card. Baselines keep 0.5."
        ),
    ] = None
    resamples: Annotated[
        int, Field(ge=200, le=20_000, description="Bootstrap resamples behind each interval.")
    ] = 2000
    keep_predictions: Annotated[
        bool,
        Field(
            description="Keep the test rows' texts beside their predictions, and of language "
            "models some rows as they are learned and answered; ids and groups stay anyway."
        ),
    ] = True


class Budget(Contract):
    """The most that this job may use. Reached, it saves, stops and waits as Suspended."""

    max_cost: Annotated[
        Decimal | None, Field(description="Money, in the currency below, over all attempts.")
    ] = None
    currency: Annotated[Currency, Field(description="ISO 4217; the rate card must agree.")] = "USD"
    max_gpu_hours: Annotated[
        Decimal | None,
        Field(description="Accelerator hours over all attempts (ranks, where the CPU trains)."),
    ] = None


class Policy(Contract):
    """What happens when things go wrong."""

    backoff_limit: Annotated[
        int,
        Field(
            ge=0,
            le=100,
            description="Failures of the job's own making that are retried. Preemption, lost "
            "nodes and suspension are not counted.",
        ),
    ] = 3
    active_deadline_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=31_536_000,
            description="The most seconds of running, all attempts together; then it saves and "
            "fails.",
        ),
    ] = None
    stall_timeout_seconds: Annotated[
        int,
        Field(ge=10, le=86_400, description="A gang without a step for so long is restarted."),
    ] = 1800
    grace_period_seconds: Annotated[
        int, Field(ge=5, le=3600, description="Time to save after a request to stop.")
    ] = 120
    start_timeout_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86_400,
            description="A gang whose pods don't all run after so long gives its devices back and "
            "is tried again. In a local run pods start at once.",
        ),
    ] = 900
    node_lost_timeout_seconds: Annotated[
        int,
        Field(
            ge=10,
            le=86_400,
            description="A pod whose node has been silent for so long is counted as gone, and the "
            "gang starts anew. A local run has no nodes.",
        ),
    ] = 300


def _task_rules(task: Task) -> Iterator[Cel]:
    """What of a spec has a meaning for the task alone."""
    facts = TASKS[task]
    metrics = [metric.value for metric in (*facts.metrics, Metric.ERROR_REDUCTION)]
    by_group = [metric.value for metric in facts.by_group]
    baselines = [baseline.value for baseline in facts.baselines]
    yield Cel(
        f"self.task != '{task.value}' || "
        f"self.evaluation.gate.all(g, has(g.group) || g.metric in {metrics})",
        f"evaluation.gate: {task.value} is measured by {', '.join(metrics)}; name one of them",
    )
    if by_group:
        yield Cel(
            f"self.task != '{task.value}' || "
            f"self.evaluation.gate.all(g, !has(g.group) || g.metric in {by_group})",
            f"evaluation.gate: groups of {task.value} are compared by {', '.join(by_group)}; name "
            "one of them where group is set",
        )
    else:
        yield Cel(
            f"self.task != '{task.value}' || self.evaluation.groups.size() == 0",
            f"evaluation.groups: {task.value} is not measured by groups; leave it out",
        )
    yield Cel(
        f"self.task != '{task.value}' || self.evaluation.gate.all(g, !has(g.against) || "
        f"g.against in {baselines})",
        f"evaluation.gate: {task.value} is compared with {', '.join(baselines)}; name one of them "
        "in against",
    )
    if not facts.has_threshold:
        yield Cel(
            f"self.task != '{task.value}' || !has(self.evaluation.threshold)",
            f"evaluation.threshold: {task.value} tells no labels by probability; leave it out",
        )
    if not facts.weighs_classes:
        yield Cel(
            f"self.task != '{task.value}' || !has(self.training.classWeights)",
            f"training.classWeights: {task.value} has not one class for each row; leave it out",
        )
    if not facts.balances_rows:
        yield Cel(
            f"self.task != '{task.value}' || self.training.sampling == 'shuffle'",
            f"training.sampling: {task.value} has not one class for each row; set shuffle",
        )
    if facts.classes is None:
        yield Cel(
            f"self.task != '{task.value}' || (self.dataset.labels.size() == 0 && "
            "self.dataset.cleaning.dropLabels.size() == 0)",
            f"dataset: {task.value} has no classes; leave labels and cleaning.dropLabels out",
        )


_LANGUAGE_FIELDS = (
    "dataset.columns.prompt",
    "dataset.columns.messages",
    "training.truncation",
    "training.packing",
)
"""Fields that only language models obey."""

_IMAGE_FIELDS = ("dataset.columns.image", "training.augmentation", "training.batchNorm")
"""Fields that only models of images obey."""

_COUNTS_DROPPED = (Task.CAUSAL_LM.value, Task.IMAGE_CLASSIFICATION.value)
_NOT_OF_IMAGES = (
    ("dataset.cleaning.markup", "self.dataset.cleaning.markup"),
    ("dataset.cleaning.unicodeForm", "self.dataset.cleaning.unicodeForm == 'NFC'"),
    ("dataset.cleaning.minCharacters", "self.dataset.cleaning.minCharacters == 1"),
    ("dataset.columns.text", "self.dataset.columns.text == 'text'"),
    ("training.maxLength", "!has(self.training.maxLength)"),
)
"""What only texts have, and what of it is as if it were not set."""


_TAG_FIELDS = ("dataset.columns.tokens", "dataset.columns.tags", "dataset.tagScheme")
"""Fields that only taggers of words obey."""


def _fields_of(task: Task, fields: Iterable[str]) -> Iterator[Cel]:
    for field in fields:
        yield Cel(
            f"self.task == '{task.value}' || !has(self.{field})",
            f"{field} goes with task {task.value}; leave it out",
        )


def _tag_rules() -> Iterator[Cel]:
    task = Task.TOKEN_CLASSIFICATION.value
    yield from _fields_of(Task.TOKEN_CLASSIFICATION, _TAG_FIELDS)
    yield Cel(
        f"self.task == '{task}' || self.dataset.format != 'conll'",
        f"dataset.format: conll goes with task {task}; write the rows as csv, jsonl or parquet",
    )


def _language_rules() -> Iterator[Cel]:
    yield from _fields_of(Task.CAUSAL_LM, _LANGUAGE_FIELDS)
    yield Cel(
        f"self.task in {list(_COUNTS_DROPPED)} || !has(self.dataset.maxDroppedPercent)",
        f"dataset.maxDroppedPercent goes with tasks {' and '.join(_COUNTS_DROPPED)}; leave it out",
    )
    yield Cel(
        f"self.task != '{Task.CAUSAL_LM.value}' || self.dataset.split.strategy == 'hash'",
        f"dataset.split.strategy: {Task.CAUSAL_LM.value} has no classes to stratify by; set hash",
    )


def _image_rules() -> Iterator[Cel]:
    task = Task.IMAGE_CLASSIFICATION.value
    for field in _IMAGE_FIELDS:
        yield Cel(
            f"self.task == '{task}' || !has(self.{field})",
            f"{field} goes with task {task}; leave it out",
        )
    for field, unset in _NOT_OF_IMAGES:
        yield Cel(
            f"self.task != '{task}' || {unset}",
            f"{field} is for texts, which {task} has none of; leave it out",
        )


@rules(
    Cel(
        "self.training.globalBatchSize % "
        "(self.compute.workers * (self.compute.gpusPerWorker > 0 ? self.compute.gpusPerWorker : 1))"
        " == 0",
        "training.globalBatchSize must be a multiple of compute.workers × gpusPerWorker, so that "
        "every rank gets as many rows",
    ),
    *(rule for task in TASKS for rule in _task_rules(task)),
    *_language_rules(),
    *_tag_rules(),
    *_image_rules(),
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
    policy: Annotated[Policy, Field(description="When things go wrong.")] = Policy()
    suspend: Annotated[
        bool, Field(description="true: save, stop, and wait; false again: go on from there.")
    ] = False


class ObjectMeta(Contract):
    """The part of Kubernetes' ObjectMeta that a manifest and the core need."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    namespace: Annotated[
        str, StringConstraints(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    ] = "default"
    uid: Annotated[str, StringConstraints(max_length=63)] = ""
    generation: int = 1
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[QualifiedName, LabelValue] = Field(default_factory=dict)
    annotations: dict[QualifiedName, str] = Field(default_factory=dict)


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
