"""UsageRecord: one attempt's metered use, priced and sealed; it outlives the job."""

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from finetune_api import API_VERSION
from finetune_api.markers import (
    Cel,
    Contract,
    Currency,
    Kind,
    Label,
    ListMap,
    PrinterColumn,
    ShortText,
    Timestamp,
    rules,
)
from finetune_api.metadata import ObjectMeta
from finetune_api.report import Marks, Step
from finetune_api.status import Amount


class TimeClass(StrEnum):
    """What a pod's time went into. Together they partition its interval exactly."""

    PULLING = "pulling"
    GANG_WAIT = "gangWait"
    INIT = "init"
    PRODUCTIVE = "productive"
    CHECKPOINT = "checkpoint"
    STALLED = "stalled"
    LOST = "lost"
    TEARDOWN = "teardown"
    UNKNOWN = "unknown"


WASTED = frozenset({TimeClass.GANG_WAIT, TimeClass.STALLED, TimeClass.LOST})


class EndEvidence(StrEnum):
    """How the end of a pod's interval is known, the best first."""

    CONTAINERS_TERMINATED = "ContainersTerminated"
    DISRUPTION = "Disruption"
    POD_GONE = "PodGone"
    NODE_GONE = "NodeGone"
    LAST_SEEN = "LastSeen"


ExactPrice = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{1,20}(\.[0-9]{1,19})?$", max_length=40),
    Field(description="A decimal number as a string, so that no reader rounds it."),
]
"""A price with all of its places: cores × a Decimal + MiB / 1024 × another has up to 9 + 10."""


class CopiedRate(Contract):
    """The price as it was when the pod was bound."""

    card: ShortText
    """Name of the rate card."""
    entry: Label
    """Name of its entry; cpu+memory where the price is the sum of two."""
    price_per_hour: ExactPrice
    currency: Currency
    """ISO 4217."""
    basis: Annotated[
        ShortText | None, Field(description="How the price was made up, where it is a sum.")
    ] = None


class TimeShare(Contract):
    """Milliseconds of one class."""

    name: TimeClass
    milliseconds: Annotated[int, Field(ge=0)]
    """Time in this class."""


@rules(
    Cel(
        "!has(self.until) || self.until >= self.since",
        "an entry can't end before it begins",
    ),
)
class UsageEntry(Contract):
    """What one pod held, from when to when."""

    pod_uid: ShortText
    """The pod."""
    segment: Annotated[
        int, Field(ge=0, description="0, or more where the price changed on the way.")
    ] = 0
    worker: Annotated[int, Field(ge=0)]
    """Index of the pod in its gang."""
    node: ShortText
    """Where it ran."""
    device: Annotated[Label, Field(description="The accelerator's product name, or cpu.")]
    milli_devices: Annotated[
        int, Field(ge=0, description="Thousandths of devices held: 1000 is a whole one.")
    ]
    since: Timestamp
    """When it began to hold its devices."""
    started_at: Annotated[
        Timestamp | None, Field(description="When its process started; unset before.")
    ] = None
    until: Annotated[Timestamp | None, Field(description="Unset while the pod lives.")] = None
    end_evidence: EndEvidence | None = None
    confirmed: Annotated[
        bool, Field(description="false: the end is the best that is known, to be corrected.")
    ] = True
    classes: Annotated[tuple[TimeShare, ...], ListMap(("name",)), Field(max_length=12)] = ()
    """What the interval went into; together all of it."""
    rate: CopiedRate | None = None
    fake_gpu: bool = False
    """A CPU stood in for the accelerator."""


class JobReference(Contract):
    """Whose use it was; the job itself may be gone."""

    namespace: Annotated[str, Field(max_length=63)]
    """The job's namespace."""
    name: Annotated[str, Field(max_length=253)]
    """The job's name."""
    uid: Annotated[str, Field(max_length=63)]
    """The job's UID."""

    @classmethod
    def of(cls, metadata: ObjectMeta) -> Self:
        """Refer to a job by its metadata."""
        return cls(namespace=metadata.namespace, name=metadata.name, uid=metadata.uid)


MOST_ENTRIES = 1000
"""Of a record: it is one object of the API server, whose size has a bound."""


class UsageRecordSpec(Contract):
    """One attempt's use."""

    job: JobReference
    step: Step
    attempt: Annotated[int, Field(ge=1)]
    """Number of the attempt."""
    revision: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="0, or more where an end became known better after the record was sealed: "
            "of an attempt's records the one with the highest counts, in place of the others.",
        ),
    ] = 0
    split_digest: Annotated[str | None, Field(max_length=71)] = None
    """Digest of row ids and roles, of the data trained on."""
    entries: Annotated[
        tuple[UsageEntry, ...], ListMap(("podUid", "segment")), Field(max_length=MOST_ENTRIES)
    ] = ()
    """One for each pod and price."""
    marks: Annotated[
        Marks | None, Field(description="What rank 0 reported; it divides time, never adds any.")
    ] = None
    sealed: Annotated[
        bool, Field(description="Interval and price are final; only `lost` is settled later.")
    ] = False
    lost_settled: Annotated[
        bool, Field(description="The next attempt has chosen its checkpoint: all is final.")
    ] = False
    cost: Annotated[
        Amount | None, Field(description="Sum of the entries, rounded; unset while open.")
    ] = None


# Compared list by list: pairing entries in CEL costs the square of 1,000, more than a rule may.
_SEALED_FACTS = (
    "e.podUid",
    "e.segment",
    "e.since",
    "has(e.until) ? string(e.until) : ''",
    "e.milliDevices",
    "has(e.rate) ? e.rate.pricePerHour : ''",
)


@rules(
    Cel(
        "self.spec.job.uid == oldSelf.spec.job.uid && self.spec.attempt == oldSelf.spec.attempt && "
        "self.spec.revision == oldSelf.spec.revision",
        "a record stays that of its job, attempt and revision: write another one",
    ),
    Cel(
        "!oldSelf.spec.lostSettled || self.spec == oldSelf.spec",
        "a settled record is final: write a correction as a new record",
    ),
    Cel(
        "!oldSelf.spec.sealed || (self.spec.sealed && "
        "(has(self.spec.cost) ? self.spec.cost : '') == "
        "(has(oldSelf.spec.cost) ? oldSelf.spec.cost : '') && "
        + " && ".join(
            f"self.spec.entries.map(e, {fact}) == oldSelf.spec.entries.map(e, {fact})"
            for fact in _SEALED_FACTS
        )
        + ")",
        "a sealed record's intervals and prices are final: only the class of lost time may still "
        "be settled",
    ),
)
class UsageRecord(Contract):
    """One attempt's metered use."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["UsageRecord"] = "UsageRecord"
    metadata: ObjectMeta
    spec: UsageRecordSpec


KIND = Kind(
    kind="UsageRecord",
    plural="usagerecords",
    singular="usagerecord",
    scope="Namespaced",
    columns=(
        PrinterColumn("Job", "string", ".spec.job.name"),
        PrinterColumn("Step", "string", ".spec.step"),
        PrinterColumn("Attempt", "integer", ".spec.attempt"),
        PrinterColumn("Revision", "integer", ".spec.revision"),
        PrinterColumn("Cost", "string", ".spec.cost"),
        PrinterColumn("Sealed", "boolean", ".spec.sealed"),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
    ),
)
