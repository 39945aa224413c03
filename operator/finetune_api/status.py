"""FineTuneJob.status: what the operator writes. Conditions are the truth; phase is for people."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.datareport import DataReport, ModelFacts
from finetune_api.evaluationreport import (
    BaselineScores,
    ClassScores,
    CounterfactualsReport,
    GateResult,
    Generalization,
    Interval,
    Metrics,
)
from finetune_api.markers import (
    Cel,
    Contract,
    Currency,
    Digest,
    Label,
    ListMap,
    ShortText,
    Text,
    Timestamp,
    rules,
)
from finetune_api.phases import ConditionType, Phase
from finetune_api.report import CurvePoint, Marks, Step
from finetune_api.tasks import Metric

Amount = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,15}(\.[0-9]{1,6})?$", max_length=24)]
"""Money or hours, rounded half-even to six places: for reading, never summed again."""


class Condition(Contract):
    """metav1.Condition."""

    type: ConditionType
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[
        str,
        StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=256),
    ]
    """Why, in one word."""
    message: Annotated[str, StringConstraints(max_length=4096)] = ""
    """Why, in a sentence for people."""
    last_transition_time: Timestamp
    """When status last changed."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec that this was said of."""


class ProgressStatus(Contract):
    """Where the training is."""

    step: Annotated[int, Field(ge=0)]
    """Optimizer steps done."""
    total_steps: Annotated[int, Field(ge=0)]
    """Optimizer steps in all."""
    percent: Annotated[str, StringConstraints(max_length=8)]
    """Steps done, for people."""
    eta: Annotated[str | None, StringConstraints(max_length=16)] = None
    """Time left, for people."""
    estimated_completion_time: Timestamp | None = None
    """When it ends, by the median forecast."""
    loss: float | None = None
    """Training loss of the newest steps."""
    rows_per_second: float | None = None
    """Rows trained on per second, over all ranks."""
    tokens_per_second: float | None = None
    """Tokens trained on per second, over all ranks."""
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=60)] = ()
    """The loss so far, thinned to at most 60 points."""
    warnings: Annotated[tuple[Text, ...], Field(max_length=8)] = ()
    """Signs of a training that goes wrong, with the step at which each was first seen."""


class AttemptStatus(Contract):
    """One attempt of one step."""

    number: Annotated[int, Field(ge=1)]
    """Grows by one with each attempt of the job."""
    step: Step
    state: Literal["Starting", "Running", "Stopping", "Ended"] = "Starting"
    """Where the attempt is."""
    start_time: Timestamp | None = None
    """When its pods were released."""
    end_time: Timestamp | None = None
    """When its last pod ended."""
    reason: Annotated[
        Label | None, Field(description="Completed, the reason of a stop, or a failure class.")
    ] = None
    message: Text | None = None
    """What happened, for people."""
    charged: Annotated[
        bool, Field(description="Whether it counts against policy.backoffLimit.")
    ] = False
    rank: int | None = None
    """The rank that failed first."""
    node: ShortText | None = None
    """The node of that rank."""
    marks: Annotated[
        Marks | None, Field(description="Steps and moments, as its rank 0 last reported them.")
    ] = None
    device_seconds: Annotated[int, Field(ge=0)] = 0
    """Device-seconds that its pods held."""
    lost_device_seconds: Annotated[int, Field(ge=0)] = 0
    """Device-seconds of work that had to be done again."""


class Resolved(Contract):
    """What was decided once and stays: an upgrade of the operator changes no running job."""

    contract_version: Annotated[int, Field(ge=1)]
    """Version of the run's format."""
    spec_digest: Digest
    """Digest of the immutable part of the spec."""
    workers: Annotated[int, Field(ge=1)]
    """Pods of the gang."""
    ranks_per_worker: Annotated[int, Field(ge=1)]
    """Ranks in each pod."""
    device: Literal["cpu", "cuda"]
    """What the ranks compute on."""
    micro_batch_size: Annotated[int, Field(ge=1)]
    """Rows that a rank computes at once."""
    accumulation_steps: Annotated[int, Field(ge=1)]
    """Micro-batches per optimizer step."""
    learning_rate: float
    """Peak learning rate."""
    epochs: float | None = None
    """Passes over the training rows, unless maxSteps is set."""
    max_steps: Annotated[int | None, Field(ge=1)] = None
    """Optimizer steps, unless epochs is set."""
    max_length: Annotated[int | None, Field(ge=1, description="Tokens per row.")] = None
    truncation: Annotated[
        Label | None, Field(description="What becomes of rows of language data that are longer.")
    ] = None
    packing: Annotated[bool, Field(description="Whether short rows share a sequence.")] = False
    precision: Label
    """Arithmetic of the forward and backward pass."""
    zero_stage: Annotated[
        int | None,
        Field(ge=0, le=3, description="What is sharded; unset until the model's facts are known."),
    ] = None
    activation_checkpointing: bool = False
    """Whether activations are computed again, as asked or after running out of memory."""
    image: Annotated[str | None, StringConstraints(max_length=1024)] = None
    """The trainer's image, on a cluster."""
    smoke: Annotated[bool, Field(description="A run of 20 steps that only proves the way.")] = False
    note: Annotated[
        Text, Field(description="How the manifest's gang was mapped to this machine, if it was.")
    ] = ""


class Estimate(Contract):
    """Forecast of the whole job, renewed as it runs."""

    total_steps: Annotated[int, Field(ge=0)]
    """Optimizer steps in all."""
    memory_bytes_per_rank: Annotated[int | None, Field(ge=0)] = None
    """Device memory that a rank needs at its peak."""
    remaining_seconds_p50: Annotated[int | None, Field(ge=0)] = None
    """Seconds left, median."""
    remaining_seconds_p90: Annotated[int | None, Field(ge=0)] = None
    """Seconds left, exceeded one time in ten."""


class ClassShare(Contract):
    """Device-seconds and money of one class of time."""

    name: Label
    """The class of time."""
    device_seconds: Amount
    """Device-seconds in this class."""
    cost: Amount
    """What they cost."""


class CostStatus(Contract):
    """What the job used and what that costs. Summed from the records, never counted up."""

    currency: Currency
    """ISO 4217."""
    spent: Annotated[Amount, Field(description="Priced use so far, open intervals included.")]
    projected: Annotated[Amount | None, Field(description="At completion, median.")] = None
    projected_p90: Amount | None = None
    """At completion, exceeded one time in ten."""
    wasted: Annotated[Amount, Field(description="Work done twice, and waiting with devices held.")]
    gpu_hours: Amount
    """Hours of accelerators."""
    rank_hours: Annotated[Amount, Field(description="Hours of ranks on a CPU; no GPU was held.")]
    unpriced_hours: Annotated[Amount, Field(description="Hours without a matching rate.")]
    display: Annotated[str, StringConstraints(max_length=40)]
    """What was spent, for people."""
    fake_gpu: Annotated[
        bool, Field(description="A CPU stood in for the accelerator that the price is of.")
    ] = False
    classes: Annotated[tuple[ClassShare, ...], ListMap(("name",)), Field(max_length=12)] = ()
    """What the time went into; together all of it."""


class GroupDifference(Contract):
    """A group of test rows against all other rows."""

    column: ShortText
    """The column that makes the group."""
    group: Label
    """The group's name, as the column has it."""
    rows: Annotated[int, Field(ge=0)]
    """Its test rows."""
    metric: Metric
    """What is compared."""
    label: ShortText | None = None
    """Of a rate the class."""
    value: float
    """The group's."""
    difference: Annotated[
        Interval | None, Field(description="The group's less the rest's; unset with too few rows.")
    ] = None
    found: bool
    """Whether the difference is more than chance, by all tests of the report together."""


class EvaluationStatus(Contract):
    """The verdict, at most 8 KiB; the whole report lies beside the model."""

    passed: bool
    """Whether every requirement of the gate holds."""
    test_rows: Annotated[int, Field(ge=1)]
    """Test rows scored."""
    checkpoint_step: Annotated[int, Field(ge=0)]
    """The step whose checkpoint was scored."""
    metrics: Metrics
    """Figures of the model on the test rows, by name."""
    baselines: Annotated[tuple[BaselineScores, ...], Field(max_length=10)] = ()
    """Conventional methods on the same rows."""
    gate: Annotated[tuple[GateResult, ...], Field(max_length=20)] = ()
    """Each requirement, and how it went."""
    groups: Annotated[
        tuple[GroupDifference, ...],
        Field(
            max_length=12,
            description="Up to 12 of the groups of evaluation.groups, first those that the model "
            "is found to be worse for; all in the report.",
        ),
    ] = ()
    counterfactuals: Annotated[
        CounterfactualsReport | None, Field(description="Of evaluation.counterfactuals.")
    ] = None
    generalization: Generalization | None = None
    temperature: Annotated[
        float | None,
        Field(gt=0, description="What would calibrate the logits; the model leaves without it."),
    ] = None
    per_class: Annotated[
        tuple[ClassScores, ...], Field(max_length=20, description="Up to 20; all in the report.")
    ] = ()
    confusion_matrix: Annotated[
        tuple[Annotated[tuple[int, ...], Field(max_length=10)], ...],
        Field(max_length=10, description="Up to 10 classes; otherwise in the report."),
    ] = ()
    report: ShortText
    """The whole report, in the workspace."""
    report_digest: Digest
    """Digest of that report."""


class Artifact(Contract):
    """Something that the job made."""

    name: Label
    """What it is."""
    uri: Annotated[str, StringConstraints(max_length=1024)]
    """Where it lies."""
    digest: Digest
    """Digest of its manifest."""


@rules(
    Cel(
        "!has(oldSelf.attempt) || (has(self.attempt) && self.attempt >= oldSelf.attempt)",
        "status.attempt never falls",
    ),
    Cel(
        "!has(oldSelf.phase) || !(oldSelf.phase in ['Complete', 'Failed']) || "
        "(has(self.phase) && self.phase == oldSelf.phase)",
        "a finished job stays finished",
    ),
)
class JobStatus(Contract):
    """The operator's account of the job."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec that this status speaks of."""
    phase: Phase = Phase.PENDING
    reason: Annotated[Label | None, Field(description="Why it is in this phase.")] = None
    message: Text | None = None
    """What is going on, for people."""
    conditions: Annotated[tuple[Condition, ...], ListMap(("type",)), Field(max_length=16)] = ()
    """The truth about the job; phase is derived from it."""
    attempt: Annotated[int, Field(ge=0, description="The newest attempt; never falls.")] = 0
    attempts: Annotated[
        tuple[AttemptStatus, ...],
        ListMap(("number",)),
        Field(max_length=10, description="The ten newest."),
    ] = ()
    charged_failures: Annotated[int, Field(ge=0)] = 0
    """Failures counted against policy.backoffLimit."""
    start_time: Timestamp | None = None
    """When the first attempt's pods were released."""
    completion_time: Timestamp | None = None
    """When the job was over."""
    retry_time: Annotated[
        Timestamp | None, Field(description="The next attempt starts no sooner.")
    ] = None
    last_update_time: Annotated[
        Timestamp | None,
        Field(description="When progress and cost were last written; at most every 30 s."),
    ] = None
    resolved: Resolved | None = None
    data: DataReport | None = None
    model: ModelFacts | None = None
    labels: Annotated[tuple[ShortText, ...], Field(max_length=200)] = ()
    """The classes, in the order of the model's outputs."""
    estimate: Estimate | None = None
    progress: ProgressStatus | None = None
    cost: CostStatus | None = None
    best_checkpoint: ShortText | None = None
    """The checkpoint that select chose, in the workspace."""
    evaluation: EvaluationStatus | None = None
    artifacts: Annotated[tuple[Artifact, ...], ListMap(("name",)), Field(max_length=10)] = ()
    """What the job made."""
