"""Trainer → operator: what the evaluate step measured, and what became of the requirements."""

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.markers import Contract, Digest, Label, ShortText
from finetune_api.report import Count, Passage, ReportRef, Size, Steps
from finetune_api.tasks import METRICS, Baseline, Metric, Task


class Interval(Contract):
    """A value with its 95 % interval."""

    value: float
    """The estimate."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end of its 95 % interval."""


Metrics = Annotated[dict[Metric, Interval], Field(max_length=20)]
"""Figures by name; those of a task stand in ``tasks.TASKS``."""


LeftOut = Annotated[
    dict[Baseline, ShortText],
    Field(max_length=10, description="Baselines of the task that were not made, and why."),
]


Thresholds = Annotated[dict[ShortText, Annotated[float, Field(ge=0, le=1)]], Field(max_length=200)]
"""From which probability on each label is told."""


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
    """The first of the task's figures by group, over its rows; 0 of no span at all."""
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


class SwapScores(Contract):
    """What swapping some terms does to the answers on the test rows that hold one."""

    name: Label
    """The swap's name; of the control: neutral."""
    rows: Count
    """Test rows that hold a term."""
    flip_rate: Annotated[
        Interval | None,
        Field(description="Share whose answer changes; unset of numbers, and without rows."),
    ] = None
    change: Annotated[
        Interval | None,
        Field(
            description="Mean absolute change: of one class half the sum over all probabilities, "
            "of several labels their mean, of a number its own."
        ),
    ] = None
    excess: Annotated[
        Interval | None,
        Field(
            description="The flip rate (of numbers the change) less that of the neutral swap; a "
            "row that holds terms of both counts on both sides, paired. Unset with too few rows."
        ),
    ] = None
    p_value: Annotated[
        float | None,
        Field(ge=0, le=1, description="Of the excess, after Holm's correction over all swaps."),
    ] = None
    found: Annotated[
        bool, Field(description="Whether it does more than a neutral swap, beyond chance.")
    ] = False
    insufficient: Annotated[
        bool, Field(description="Whether it or the control has fewer than 30 rows (or 10 units).")
    ] = False


class CounterfactualsReport(Contract):
    """What swapping terms does that should not matter, beside a neutral swap."""

    neutral: SwapScores
    """The control."""
    swaps: Annotated[tuple[SwapScores, ...], Field(max_length=12)]
    """As the manifest has them."""


class Generalization(Contract):
    """The scored checkpoint's loss on rows that it learned from, and on the select rows.

    On equal terms: in evaluation mode, without augmentation or class weights, on as many training
    rows (drawn) as there are select rows.
    """

    train_rows: Size
    """Training rows that were drawn and asked."""
    select_rows: Size
    """All of them."""
    train_loss: Interval
    """The mean loss of the training rows."""
    select_loss: Interval
    """That of the select rows."""
    gap: Interval
    """The select rows' less the training rows'; above 0 the model knows the rows it saw better."""


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
    swap: Annotated[
        Label | None, Field(description="The swap that does most, or has too few rows.")
    ] = None
    insufficient: Annotated[
        bool, Field(description="Whether a group or a swap had too few rows to be compared.")
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
    baselines_left_out: LeftOut = Field(default_factory=dict)
    groups: Annotated[
        tuple[GroupsReport, ...],
        Field(max_length=3, description="Of each column of evaluation.groups."),
    ] = ()
    counterfactuals: Annotated[
        CounterfactualsReport | None, Field(description="Of evaluation.counterfactuals.")
    ] = None
    generalization: Generalization | None = None
    calibration: Annotated[Calibration | None, Field(description="Of tasks with one class.")] = None
    thresholds: Annotated[
        Thresholds,
        Field(
            description="Where evaluation.threshold is set: the probability from which a label is "
            "told; of two classes that of the last."
        ),
    ] = Field(default_factory=dict)
    baseline_thresholds: Annotated[
        dict[Baseline, Thresholds],
        Field(
            max_length=10,
            description="Where evaluation.threshold is tune: those of the baselines, by the same "
            "rule on the same select rows.",
        ),
    ] = Field(default_factory=dict)
    generations: Annotated[
        tuple[Generation, ...],
        Field(
            max_length=16,
            description="Of language models, unless keepPredictions is false or rowResults is "
            "Discard.",
        ),
    ] = ()
    mistakes: Annotated[
        tuple[Mistake, ...],
        Field(
            max_length=10,
            description="Of images, unless rowResults is Discard: those that the model was surest "
            "of.",
        ),
    ] = ()
    gate: Annotated[tuple[GateResult, ...], Field(max_length=20)] = ()
    passed: bool
    resamples: Size
    interval_unit: Annotated[
        Label, Field(description="What is resampled: row, or the group column.")
    ] = "row"
    predictions: Annotated[
        ReportRef | None,
        Field(description="Per-row predictions (Parquet), unless rowResults is Discard."),
    ] = None
    losses: Annotated[
        ReportRef | None,
        Field(description="The rows' losses that generalization comes from (Parquet)."),
    ] = None
    model: Annotated[
        ReportRef | None, Field(description="The exported model; its digest is of its manifest.")
    ] = None
