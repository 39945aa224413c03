"""Trainer → operator: what the prepare step found of the data and of the model."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.evaluationreport import LeftOut, Metrics
from finetune_api.markers import Contract, Digest, Label, ShortText
from finetune_api.report import Count, Size
from finetune_api.tasks import Baseline


class CountedReason(Contract):
    """Rows that a cleaning step changed or took out, with a few of their numbers."""

    step: Label
    """The cleaning step."""
    rows: Count
    """Rows that it touched."""
    dropped: bool
    """Whether it took them out."""
    unchanged: bool = False
    """Whether it only counted them."""
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


class GroupCount(Contract):
    """Rows of one group of a column of evaluation.groups in each role."""

    column: ShortText
    """The column."""
    group: Label
    """The value that its rows share."""
    train: Annotated[
        Count | None,
        Field(
            description="Rows that train. Unset where dataset.test names a set of its own, which "
            "alone needs the column."
        ),
    ] = None
    select: Annotated[
        Count | None, Field(description="Rows that choose the checkpoint; unset likewise.")
    ] = None
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


EffectiveRows = Annotated[
    float,
    Field(
        ge=1,
        description="How many rows without near copies would be as many kinds of row: the "
        "exponential of the entropy of the families' shares, a near copy being of the "
        "family of the first row that it is one of (Hill number of order 1, Hill 1973; the "
        "Vendi score of a likeness of 1 within families and 0 between them). Unset where near "
        "duplicates were not looked for.",
    ),
]


class TextVariety(Contract):
    """How much there is to learn from in the words of the training rows, before they are cut.

    Of a prompt and its completion, and of a chat, the words of what is asked.
    """

    words: Count
    """All words."""
    distinct_words: Count
    """Words that differ by more than their case."""
    lexical_diversity: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="The mean share of different words in a random sample of 42 of them "
            "(HD-D, McCarthy and Jarvis 2007, over 42). Unset with fewer words than that.",
        ),
    ] = None
    effective_rows: EffectiveRows | None = None


class LanguageCount(Contract):
    """Rows of one language in each role."""

    language: Label
    """Its ISO 639 code; und where it is not sure, zxx where a text is in none."""
    train: Count
    """Rows that train."""
    select: Count
    """Rows that choose the checkpoint."""
    test: Count
    """Rows that only evaluation sees."""


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
    effective_rows: EffectiveRows | None = None


class SuspectPair(Contract):
    """Rows of one target that likely have another.

    Of several labels one of them is unset: the rows have a label that they likely lack, or lack one
    that they likely have.
    """

    has: ShortText | None = None
    """What they have."""
    likely: ShortText | None = None
    """What the baseline takes for likelier."""
    rows: Size
    """How many they are."""


class Suspects(Contract):
    """Training rows whose target a baseline doubts that was fitted without them.

    Nothing is taken out: a row may be hard and not wrong.
    """

    baseline: Baseline
    """Which one doubts."""
    looked_at: Annotated[Count, Field(description="Training rows that were held out once.")]
    rows: Count
    """Rows that are suspect."""
    pairs: Annotated[
        tuple[SuspectPair, ...],
        Field(max_length=20, description="The most frequent, where targets are names."),
    ] = ()
    examples: Annotated[
        tuple[ShortText, ...],
        Field(max_length=10, description="Ids of the most suspect rows, never their text."),
    ] = ()


class DataReport(Contract):
    """What became of the rows: read, changed, dropped, split."""

    read_rows: Count
    """Rows in the source."""
    kept_rows: Count
    """Rows left after cleaning."""
    train_rows: Count
    """Rows that train."""
    select_rows: Count
    """Rows that choose the checkpoint."""
    test_rows: Count
    """Rows that only evaluation sees."""
    cleaning: Annotated[tuple[CountedReason, ...], Field(max_length=40)] = ()
    """What each cleaning step did."""
    classes: Annotated[tuple[ClassCount, ...], Field(max_length=200)] = ()
    """Rows of each class in each role."""
    groups: Annotated[
        tuple[GroupCount, ...],
        Field(max_length=60, description="Up to 20 groups a column, those of the test rows first."),
    ] = ()
    target: Annotated[
        TargetStatistics | None, Field(description="Set where the target is a number.")
    ] = None
    tokens: TokenStatistics | None = None
    texts: Annotated[TextVariety | None, Field(description="Set where rows are texts.")] = None
    languages: Annotated[
        tuple[LanguageCount, ...],
        Field(
            max_length=20,
            description="Rows of the most frequent languages; of prompts and chats by what is "
            "asked.",
        ),
    ] = ()
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
    suspects: Annotated[
        Suspects | None,
        Field(
            description="Where rows have a class, labels or a number, and are enough to hold some "
            "out. output/suspects.csv has all of them."
        ),
    ] = None
    data_digest: Annotated[Digest, Field(description="Of the source bytes.")]
    split_digest: Annotated[Digest, Field(description="Of row ids and roles.")]


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


class Moment(Contract):
    """A moment of a training step: what stands in memory besides weights and optimizer."""

    row_bytes: Count
    """Of each row of the micro-batch: activations, outputs and their gradients."""
    fixed_bytes: Count
    """However many rows: the weights' gradients that there are by then, and copies of weights."""
    exchanging: bool
    """Whether a weight has its gradient, and ranks exchange them."""


class StepTrace(Contract):
    """The moments at which a step may be at its peak, counted on the model's shapes."""

    element: Annotated[int, Field(ge=2, le=4)]
    """Bytes of a number of the forward and backward pass."""
    recomputed: bool
    """Whether activations are computed again."""
    tokens: Size
    """Length of the rows that it was counted with; 1 for images."""
    moments: Annotated[tuple[Moment, ...], Field(min_length=1, max_length=40)]
    """In the order in which they come."""
    last_gathered: Annotated[
        Moment | None,
        Field(
            description="Just before the forward pass uses the last of the weights that ZeRO 3 "
            "shards. Unset where all of them are too small for it."
        ),
    ] = None


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
    largest_weight: Count = 0
    """Numbers of the largest weight that is trained."""
    trace: Annotated[
        StepTrace | None,
        Field(description="What a step holds. Unset where a model's way depends on values."),
    ] = None
    gathered_trace: Annotated[
        StepTrace | None,
        Field(
            description="The same with ZeRO 3, whose linear layers keep their inputs where their "
            "weights are frozen, too. Set for LoRA."
        ),
    ] = None


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
    metrics: Annotated[
        Metrics,
        Field(
            description="Every figure of the task that is known of it on the select rows, with "
            "intervals; labels are told from 0.5 on."
        ),
    ] = Field(default_factory=dict)


class PrepareReport(Contract):
    """The prepare step's whole result."""

    version: Literal[1] = 1
    data: DataReport
    model: ModelFacts
    labels: Annotated[tuple[ShortText, ...], Field(max_length=200)]
    baselines: Annotated[tuple[BaselineFit, ...], Field(max_length=10)] = ()
    baselines_left_out: LeftOut = Field(default_factory=dict)
