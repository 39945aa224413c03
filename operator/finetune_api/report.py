"""What the trainer tells the operator: progress, the end of a pod, and the reports.

Nothing in here moves money: that is counted from what the API server (or the local engine) says
about the pod itself.
"""

from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.markers import Contract, Digest, Label, ShortText, Text, Timestamp
from finetune_api.tasks import METRICS, Baseline, Metric, Task

REPORT_VERSION = 1
TERMINATION_LIMIT_BYTES = 4096
"""The kubelet keeps only the tail of a longer message, and JSON would lose its head."""

# A pod runs other people's code, and what it tells stands in a status. The bounds are beyond
# anything that is meant, and within what JSON readers and an API server can keep.
Steps = Annotated[int, Field(ge=0, le=10_000_000_000)]
"""Optimizer steps."""
Milliseconds = Annotated[int, Field(ge=0, le=10 * 365 * 86_400_000)]
"""A time of at most ten years."""
AttemptNumber = Annotated[int, Field(ge=1, le=2_147_483_647)]
Rank = Annotated[int, Field(ge=0, le=2_147_483_647)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000_000_000)]
"""Rows, tokens or weights."""
Size = Annotated[int, Field(ge=1, le=1_000_000_000_000_000)]
"""A count of what there is at least one of."""


PASSAGE_CHARACTERS = 600
Passage = Annotated[str, StringConstraints(max_length=PASSAGE_CHARACTERS)]
"""A piece of a row or of an answer to one."""


class ExitCode(IntEnum):
    """How a trainer process ends. Others are the kernel's (128 + signal)."""

    DONE = 0
    USAGE = 64
    DATA = 65
    INTERNAL = 70
    DEVICE_OUT_OF_MEMORY = 71
    STORAGE = 74
    STOPPED = 75


EXIT_MEANING: dict[ExitCode, str] = {
    ExitCode.DONE: "Done.",
    ExitCode.USAGE: "The run or the environment is not usable: the manifest must be mended.",
    ExitCode.DATA: "The data are not usable: the message names file, row and fix.",
    ExitCode.INTERNAL: "A fault of the trainer itself.",
    ExitCode.DEVICE_OUT_OF_MEMORY: "The accelerator's memory did not suffice.",
    ExitCode.STORAGE: "A volume or an object store could not be read or written.",
    ExitCode.STOPPED: "Stopped on request, with a complete checkpoint.",
}


class Step(StrEnum):
    """The three steps of a job, each with attempts of its own kind."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"


class FailureClass(StrEnum):
    """Why an attempt failed; decides what happens next."""

    USER_ERROR = "UserError"
    DATA_ERROR = "DataError"
    HOST_OOM = "HostOOM"
    DEVICE_OOM = "DeviceOOM"
    COLLECTIVE_HANG = "CollectiveHang"
    STORAGE = "Storage"
    NODE_FAULT = "NodeFault"
    PREEMPTED = "Preempted"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL = "ImagePull"
    STALLED = "Stalled"
    REPORT_MISSED = "ReportMissed"
    UNKNOWN = "Unknown"


class Interval(Contract):
    """A value with its 95 % interval."""

    value: float
    """The estimate."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end of its 95 % interval."""


Metrics = Annotated[dict[Metric, Interval], Field(max_length=20)]
"""Figures on the test rows by name; those of a task stand in ``tasks.TASKS``."""


class CurvePoint(Contract):
    """A point of the loss curve; ``select_loss`` where the select rows were scored."""

    step: Steps
    """Optimizer step."""
    loss: float | None = None
    """Training loss."""
    select_loss: float | None = None
    """Loss on the select rows."""


class Marks(Contract):
    """Moments of one attempt as its rank 0 saw them. They divide metered time into classes."""

    started_at: Timestamp | None = None
    """When the process began."""
    first_step_at: Timestamp | None = None
    """When the first step was done."""
    last_step_at: Timestamp | None = None
    """When the newest step was done."""
    resumed_from_step: Steps = 0
    """The step of the checkpoint that it began from; 0 is none."""
    resumed_from_attempt: Annotated[
        AttemptNumber | None,
        Field(description="The attempt that wrote the checkpoint resumed from."),
    ] = None
    last_step: Steps = 0
    """The newest step done."""
    checkpoint_step: Annotated[
        Steps | None, Field(description="Step of the newest complete checkpoint.")
    ] = None
    checkpoint_at: Timestamp | None = None
    """When the newest complete checkpoint was written."""
    checkpoint_milliseconds: Annotated[
        Milliseconds, Field(description="Time spent saving, all checkpoints of this attempt.")
    ] = 0
    evaluation_milliseconds: Annotated[
        Milliseconds, Field(description="Time spent scoring the select rows.")
    ] = 0


class Progress(Contract):
    """The reply of rank 0 at ``/progress``. Bounded, and named by pod, for addresses are reused."""

    version: Literal[1] = 1
    pod_uid: ShortText
    attempt: AttemptNumber
    step: Steps
    total_steps: Steps
    loss: float | None = None
    learning_rate: float | None = None
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    seconds_per_step: Annotated[
        float | None, Field(description="Median of recent steps, without saving and evaluation.")
    ] = None
    seconds_per_checkpoint: float | None = None
    seconds_per_evaluation: float | None = None
    remaining_checkpoints: Steps = 0
    remaining_evaluations: Steps = 0
    stage: Annotated[
        Label, Field(description="What the process is doing: loading, training, saving, …")
    ] = "loading"
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=60)] = ()
    warnings: Annotated[
        tuple[Text, ...], Field(max_length=8, description="Signs of a training that goes wrong.")
    ] = ()
    marks: Marks = Marks()


class Failure(Contract):
    """The first rank that failed, and why."""

    failure_class: FailureClass
    message: Text
    rank: Rank | None = None
    by_peer: Annotated[bool, Field(description="It only noticed the death of another rank.")] = (
        False
    )
    traceback: Annotated[str, Field(max_length=2400, description="The last lines, for people.")] = (
        ""
    )


class ReportRef(Contract):
    """Where a full report lies in the workspace, and its digest."""

    path: ShortText
    digest: Digest


class TrainResult(Contract):
    """What training ended with."""

    steps: Steps
    best_step: Steps
    best_select_loss: float
    final_loss: float | None = None
    stopped_early: Annotated[
        bool, Field(description="It did not get better for as long as earlyStopping allows.")
    ] = False
    checkpoint: Annotated[ShortText, Field(description="The best checkpoint, in the workspace.")]
    packed_fill: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="Share of the packed sequences that rows fill; unset where they were not "
            "packed.",
        ),
    ] = None


class Termination(Contract):
    """The message a pod leaves behind, at most 4 KiB of JSON."""

    version: Literal[1] = 1
    step: Step
    attempt: AttemptNumber
    worker: Rank
    exit_code: Annotated[int, Field(ge=0, le=255)]
    failure: Failure | None = None
    marks: Marks = Marks()
    train: TrainResult | None = None
    report: Annotated[
        ReportRef | None, Field(description="prepare: the PrepareReport; evaluate: the Evaluation.")
    ] = None


class CountedReason(Contract):
    """Rows that a cleaning step changed or took out, with a few of their numbers."""

    step: Label
    """The cleaning step."""
    rows: Count
    """Rows that it touched."""
    dropped: bool
    """Whether it took them out."""
    examples: Annotated[
        tuple[ShortText, ...], Field(max_length=10, description="Row ids, never their text.")
    ] = ()


class ClassCount(Contract):
    """Rows of one class in each role."""

    label: ShortText
    """The class."""
    train: Count
    """Rows that train."""
    select: Count
    """Rows that choose the checkpoint."""
    test: Count
    """Rows that only evaluation sees."""


class TargetStatistics(Contract):
    """The numbers that the training rows have for a target."""

    mean: float
    """Their mean."""
    deviation: Annotated[float, Field(gt=0, description="Their standard deviation.")]
    min: float
    """The least."""
    max: float
    """The greatest."""


class TokenStatistics(Contract):
    """Lengths of the tokenized training rows, before they are cut."""

    sum: Count
    """Tokens of all rows."""
    min: Count
    """Tokens of the shortest row."""
    max: Count
    """Tokens of the longest row."""
    mean: float
    """Mean tokens per row."""
    median: float
    """Median tokens per row."""
    p95: float
    """Tokens that 95 % of the rows don't exceed."""
    truncated_rows: Count
    """Rows cut at training.maxLength."""
    truncated_examples: Annotated[tuple[ShortText, ...], Field(max_length=10)] = ()
    """Ids of some of them."""
    learned: Annotated[
        Count | None,
        Field(description="Tokens that are learned, after the cut; the others are only read."),
    ] = None


class RoleCounts(Contract):
    """How many there are in each role."""

    train: Count
    """Of the rows that train."""
    select: Count
    """Of those that choose the checkpoint."""
    test: Count
    """Of those that only evaluation sees."""


class Spread(Contract):
    """How a measure is spread over rows."""

    min: Count
    """The least."""
    median: float
    """The median."""
    max: Count
    """The greatest."""


class ImageStatistics(Contract):
    """The training images, as they were before the model's processor made them alike."""

    width: Spread
    """Pixels from left to right."""
    height: Spread
    """Pixels from top to bottom."""
    modes: Annotated[
        dict[Label, Count],
        Field(max_length=20, description="Images by how they hold color (RGB, L for gray, …)."),
    ]
    read_width: Size
    """Pixels from left to right that the model reads."""
    read_height: Size
    """Pixels from top to bottom that the model reads."""


class DataReport(Contract):
    """What became of the rows: read, changed, dropped, split."""

    read_rows: Count
    """Rows in the source."""
    kept_rows: Count
    """Rows left after cleaning."""
    train_rows: Count
    """Rows that train."""
    train_examples: Annotated[
        Size | None,
        Field(
            description="What a step counts in, where a row is not one example: windows of long "
            "rows."
        ),
    ] = None
    select_rows: Count
    """Rows that choose the checkpoint."""
    test_rows: Count
    """Rows that only evaluation sees."""
    cleaning: Annotated[tuple[CountedReason, ...], Field(max_length=30)] = ()
    """What each cleaning step did."""
    classes: Annotated[tuple[ClassCount, ...], Field(max_length=200)] = ()
    """Rows of each class in each role."""
    target: Annotated[
        TargetStatistics | None, Field(description="Set where the target is a number.")
    ] = None
    tokens: TokenStatistics | None = None
    unread_words: Annotated[
        RoleCounts | None,
        Field(
            description="Tagged words that the model does not get to read: cut off at "
            "training.maxLength, or without any token."
        ),
    ] = None
    images: Annotated[ImageStatistics | None, Field(description="Set where rows are images.")] = (
        None
    )
    data_digest: Annotated[Digest, Field(description="Of the source bytes.")]
    split_digest: Annotated[Digest, Field(description="Of row ids and roles.")]

    @property
    def steps_count_in(self) -> int:
        """Examples of an epoch: rows, or what the task makes of them."""
        return self.train_rows if self.train_examples is None else self.train_examples


class ImageFacts(Contract):
    """What one image costs a model, counted on its shapes without its weights."""

    activations: Size
    """Numbers that are kept for the backward pass."""
    recomputed_activations: Annotated[
        Size | None,
        Field(
            description="Numbers at the peak where activations are computed again: every layer's "
            "input and one layer whole. Unset where the architecture can't."
        ),
    ] = None
    forward_flops: Size
    """Floating-point operations of the forward pass."""


class ModelFacts(Contract):
    """What the footprint needs to know of a model; read without building its weights."""

    architecture: ShortText
    """Name of the model's class."""
    model_type: Label
    """The model's family."""
    parameters: Size
    """Weights in all, LoRA's own not counted."""
    trainable_parameters: Size
    """Weights that training changes."""
    layers: Size
    """Transformer blocks, or blocks of a convolutional network."""
    hidden_size: Size
    """Width of the residual stream; of a model of images that of its last layer."""
    intermediate_size: Count
    """Width of the feed-forward layers; 0 where a model of images was counted on its shapes."""
    attention_heads: Count
    """Attention heads per block; likewise."""
    vocabulary: Count
    """Tokens that it knows; none of a model of images."""
    max_positions: Size | None = None
    """Longest input, in tokens."""
    classes: Size
    """Outputs of the head; of a language model its vocabulary."""
    per_token: bool = False
    """Whether the head answers for each token, and not once for a row."""
    image: Annotated[ImageFacts | None, Field(description="Set for models of images.")] = None


class BaselineFit(Contract):
    """A conventional baseline as it was fitted: what cross-validation chose, and how it did."""

    name: Baseline
    settings: Annotated[dict[str, str], Field(max_length=10)] = Field(default_factory=dict)
    cross_validated: Annotated[
        float | None, Field(description="The task's first metric over folds of the training rows.")
    ] = None
    select: Annotated[
        float | None, Field(description="The task's first metric on the select rows.")
    ] = None


class PrepareReport(Contract):
    """The prepare step's whole result."""

    version: Literal[1] = 1
    data: DataReport
    model: ModelFacts
    labels: Annotated[tuple[ShortText, ...], Field(max_length=200)]
    baselines: Annotated[tuple[BaselineFit, ...], Field(max_length=10)] = ()


class ClassScores(Contract):
    """One class on the test rows."""

    label: ShortText
    """The class."""
    precision: float
    """Share of the rows called so that are so."""
    recall: float
    """Share of the rows that are so and are called so."""
    f1: float
    """Harmonic mean of precision and recall."""
    support: Count
    """Test rows of the class; of tags, spans of the type (words, where tags are plain)."""


class BaselineScores(Contract):
    """A baseline on the same test rows, and the model against it, paired by row."""

    name: Baseline
    """The baseline."""
    metrics: Metrics
    """Those of the model's figures that compare."""
    error_reduction: Annotated[
        Interval | None,
        Field(
            description="Share of the baseline's errors that the model doesn't make; unset "
            "where the baseline makes none."
        ),
    ] = None


class Contrast(Contract):
    """A figure of one group of test rows, less the same of all other rows."""

    metric: Metric
    """What is compared."""
    label: Annotated[
        ShortText | None, Field(description="Of a rate the class, the one that differs most.")
    ] = None
    value: float
    """The group's."""
    rest: float
    """That of all other rows."""
    difference: Interval
    """The group's less the rest's."""
    p_value: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Two-sided, after Holm's correction over all contrasts of the report.",
        ),
    ]
    found: bool
    """Whether the p-value is at most 0.05: the difference is more than chance."""

    @property
    def shortfall(self) -> Interval:
        """How much worse the group is; of a selection rate how far it is from the rest."""
        value, low, high = self.difference.value, self.difference.low, self.difference.high
        rises = METRICS[self.metric].lower_is_better
        if self.metric is Metric.SELECTION_RATE:
            rises = value >= 0
        if rises:
            return self.difference
        turned = (None if end is None else 0.0 - end for end in (high, low))
        return Interval(value=0.0 - value, low=next(turned), high=next(turned))


class Amplification(Contract):
    """How much further a group is from the rest in what is told of it than in its labels."""

    label: ShortText
    """The class of which that is most."""
    difference: Interval
    """The gap of the selection rates, less the gap of the labels' shares."""


class GroupScores(Contract):
    """One group of test rows."""

    group: Label
    """The column's value that its rows share."""
    rows: Count
    """Its test rows."""
    figure: Interval
    """The first of the task's figures by group, over its rows."""
    contrasts: Annotated[
        tuple[Contrast, ...],
        Field(max_length=601, description="Against all other rows, as far as there are enough."),
    ] = ()
    insufficient: Annotated[
        tuple[Metric, ...],
        Field(
            max_length=5,
            description="Figures that have fewer than 30 rows (or 10 units) under them, in the "
            "group or in the rest; of a rate, for some class.",
        ),
    ] = ()
    amplification: Amplification | None = None
    """Of a task with classes."""


class GroupsReport(Contract):
    """The groups that one column makes."""

    column: ShortText
    """The column."""
    groups: Annotated[tuple[GroupScores, ...], Field(max_length=20)]
    """By name."""


class GateResult(Contract):
    """One requirement, and how it went."""

    name: Label
    """The requirement's name."""
    metric: Metric
    """What was measured."""
    against: Annotated[
        Baseline | None, Field(description="The baseline that errorReduction is measured against.")
    ] = None
    bound: Label
    """The value itself, or the end of its interval that has to pass."""
    required: float
    """The least that passes, or the most where less is better."""
    measured: Annotated[float | None, Field(description="Unset where the figure is undefined.")] = (
        None
    )
    passed: bool
    """Whether it holds."""
    column: Annotated[
        ShortText | None, Field(description="The column whose groups are held to it.")
    ] = None
    group: Annotated[
        Label | None, Field(description="The group that falls shortest, or can't be compared.")
    ] = None
    label: Annotated[ShortText | None, Field(description="Of a rate its class.")] = None
    shortfall: Annotated[
        Interval | None,
        Field(description="Of that group; unset where no group could be compared."),
    ] = None
    insufficient: Annotated[
        bool, Field(description="Whether a group had too few rows to be compared.")
    ] = False


class ReliabilityBin(Contract):
    """Test rows of about the same top probability."""

    confidence: Annotated[float, Field(ge=0, le=1, description="Their mean top probability.")]
    accuracy: Annotated[float, Field(ge=0, le=1, description="Share of them that are right.")]
    rows: Size
    """How many they are."""


class Reliability(Contract):
    """How far probabilities can be taken at their word, on the test rows."""

    loss: float
    """Mean negative log-likelihood, in nats."""
    expected_calibration_error: float
    """Gap of top probability and accuracy, over bins of equal mass."""
    brier: float
    """Mean squared error of the probabilities, 0 to 2."""
    bins: Annotated[tuple[ReliabilityBin, ...], Field(max_length=15)]
    """What the gap is summed over."""


class Calibration(Contract):
    """The probabilities as they are, and divided by a temperature that the select rows chose.

    The exported model is the one that was scored: the temperature is for whoever wants it, and
    changes no class.
    """

    before: Reliability
    """As the model gives them."""
    temperature: Annotated[
        float | None,
        Field(
            gt=0,
            description="What logits are divided by; above 1 the model was too sure. Unset where "
            "the select rows don't tell it: too few, or hardly one wrong.",
        ),
    ] = None
    after: Annotated[Reliability | None, Field(description="With the temperature.")] = None
    select_rows: Count
    """Rows that chose it."""


class Generation(Contract):
    """A test row as it was asked, and what the model and its base answered, for people to read."""

    row_id: ShortText
    asked: Passage
    """The end of what the model read."""
    expected: Passage
    """What the row answers."""
    answered: Passage
    """What the model answered, greedily, special tokens included."""
    untuned: Passage
    """What the untuned model answered."""


class Mistake(Contract):
    """A test row that the model took for another class."""

    row_id: ShortText
    truth: ShortText
    """Its class."""
    predicted: ShortText
    """The class that the model chose."""
    probability: Annotated[float, Field(ge=0, le=1, description="Of the class that it chose.")]


class EvaluationReport(Contract):
    """The evaluate step's whole result; lies beside the model."""

    version: Literal[1] = 1
    inputs_digest: Annotated[
        Digest,
        Field(
            description="Of the run, the checkpoint's manifest and the split: with the same ones, "
            "the stored report is served again."
        ),
    ]
    task: Task
    test_rows: Size
    checkpoint_step: Steps
    split_digest: Digest
    labels: Annotated[tuple[ShortText, ...], Field(max_length=200)]
    metrics: Metrics
    """Figures of the model on the test rows, by name."""
    per_class: Annotated[tuple[ClassScores, ...], Field(max_length=200)] = ()
    confusion_matrix: Annotated[
        tuple[tuple[Count, ...], ...],
        Field(description="Rows: the true class; columns: the predicted one."),
    ] = ()
    baselines: Annotated[tuple[BaselineScores, ...], Field(max_length=10)]
    groups: Annotated[
        tuple[GroupsReport, ...],
        Field(max_length=3, description="Of each column of evaluation.groups."),
    ] = ()
    calibration: Annotated[Calibration | None, Field(description="Of tasks with one class.")] = None
    thresholds: Annotated[
        dict[ShortText, Annotated[float, Field(ge=0, le=1)]],
        Field(
            max_length=200,
            description="Where evaluation.threshold is set: the probability from which a label is "
            "told; of two classes that of the last.",
        ),
    ] = Field(default_factory=dict)
    generations: Annotated[
        tuple[Generation, ...],
        Field(max_length=16, description="Of language models, unless keepPredictions is false."),
    ] = ()
    mistakes: Annotated[
        tuple[Mistake, ...],
        Field(max_length=10, description="Of images: those that the model was surest of."),
    ] = ()
    gate: Annotated[tuple[GateResult, ...], Field(max_length=20)] = ()
    passed: bool
    resamples: Size
    interval_unit: Annotated[
        Label, Field(description="What is resampled: row, or the group column.")
    ] = "row"
    predictions: Annotated[ReportRef, Field(description="Per-row predictions (Parquet).")]
    model: Annotated[
        ReportRef | None, Field(description="The exported model; its digest is of its manifest.")
    ] = None
