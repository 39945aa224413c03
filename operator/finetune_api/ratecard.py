"""RateCard: what an hour of each device costs, from when on, and who says so."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from finetune_api import API_VERSION
from finetune_api.markers import (
    Cel,
    Contract,
    Currency,
    Decimal,
    Kind,
    Label,
    ListMap,
    PrinterColumn,
    Text,
    Timestamp,
    rules,
)
from finetune_api.metadata import ObjectMeta


class CapacityType(StrEnum):
    """How the capacity was bought."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"
    RESERVED = "Reserved"
    OWNED = "Owned"


class RateResource(StrEnum):
    """What the price is of. An accelerator's is all-in: its pod pays no CPU or memory besides."""

    ACCELERATOR = "accelerator"
    CPU = "cpu"
    MEMORY = "memory"


@rules(
    Cel(
        "self.resource == 'accelerator' || !has(self.gpuType)",
        "gpuType goes with resource accelerator",
    ),
)
class RateEntry(Contract):
    """One price. A node matches if every selector that is set agrees with it."""

    name: Annotated[
        Label,
        Field(description="The entry's name. A local run matches the entry named local, per rank."),
    ]
    resource: Annotated[
        RateResource,
        Field(
            description="accelerator: per device-hour; cpu: per core-hour; memory: per GiB-hour."
        ),
    ] = RateResource.ACCELERATOR
    gpu_type: Annotated[
        Label | None, Field(description="The accelerator's product name, as nodes are labeled.")
    ] = None
    provider: Annotated[Label | None, Field(description="Cloud, or data center.")] = None
    region: Annotated[Label | None, Field(description="Region label of the node.")] = None
    capacity_type: Annotated[CapacityType | None, Field(description="How it was bought.")] = None
    price_per_hour: Annotated[Decimal, Field(description="Money for one unit for one hour.")]
    effective_from: Annotated[
        Timestamp, Field(description="The price holds from then on, until a later one.")
    ]
    source: Annotated[Text, Field(description="Where the price was read, for whoever asks.")]
    as_of: Annotated[Timestamp | None, Field(description="When it was read there.")] = None


class RateCardSpec(Contract):
    """Prices in one currency. Records copy them: a change rewrites no sealed record."""

    currency: Annotated[Currency, Field(description="ISO 4217.")]
    entries: Annotated[
        tuple[RateEntry, ...],
        ListMap(("name", "effectiveFrom")),
        Field(
            min_length=1,
            max_length=500,
            description="The prices. Of those that match a node, the one with the most "
            "selectors counts, then the newest in effect.",
        ),
    ]


@rules(
    Cel(
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?"
        "(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
        "metadata.name must consist of a-z, 0-9, '-' and '.', and start and end with a letter or "
        "digit",
    ),
)
class RateCard(Contract):
    """What an hour of each device costs."""

    api_version: Literal["finetune.dev/v1alpha1"] = API_VERSION
    kind: Literal["RateCard"] = "RateCard"
    metadata: ObjectMeta
    spec: RateCardSpec


KIND = Kind(
    kind="RateCard",
    plural="ratecards",
    singular="ratecard",
    scope="Cluster",
    columns=(
        PrinterColumn("Currency", "string", ".spec.currency"),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp"),
    ),
)
