"""FineTuneJob.spec.compute: how many pods, of what size, and where they may run."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.markers import (
    QUALIFIED_NAME_PATTERN,
    Bytes,
    Cel,
    Contract,
    Cpus,
    LabelValue,
    QualifiedName,
    Seconds,
    rules,
)

_NOT_LOCALLY = "A local run has one machine and leaves it out."
_QualifiedKey = Annotated[str, StringConstraints(max_length=253 + 1 + 63)]


class TolerationOperator(StrEnum):
    """How a toleration compares a taint's value."""

    EQUAL = "Equal"
    EXISTS = "Exists"


class TaintEffect(StrEnum):
    """What a taint does to pods that don't tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


@rules(
    Cel(
        "self.operator == 'Exists' || has(self.key)",
        "compute.tolerations: operator Equal needs a key; without one, use operator Exists",
    ),
    Cel(
        "self.operator == 'Equal' || !has(self.value)",
        "compute.tolerations: a value goes with operator Equal",
    ),
    Cel(
        "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
        "compute.tolerations: tolerationSeconds goes with effect NoExecute",
    ),
)
class Toleration(Contract):
    """A taint that the job's pods put up with, as in a pod's spec."""

    key: Annotated[
        QualifiedName | None, Field(description="The taint's key; left out, every key.")
    ] = None
    operator: Annotated[
        TolerationOperator, Field(description="Equal compares the value, Exists takes any.")
    ] = TolerationOperator.EQUAL
    value: Annotated[LabelValue | None, Field(description="The taint's value.")] = None
    effect: Annotated[
        TaintEffect | None, Field(description="The taint's effect; left out, every effect.")
    ] = None
    toleration_seconds: Annotated[
        Seconds | None,
        Field(
            description="How long a pod stays on a node that gets the taint; left out, for good."
        ),
    ] = None


@rules(
    Cel(
        f"self.nodeSelector.all(key, key.matches('{QUALIFIED_NAME_PATTERN}'))",
        "compute.nodeSelector: a key must be a label's name, such as kubernetes.io/arch",
    ),
)
class Compute(Contract):
    """The gang: how many pods, with how many accelerators each, and where they may run."""

    workers: Annotated[int, Field(ge=1, le=64, description="Trainer pods of the gang.")] = 1
    gpus_per_worker: Annotated[
        int,
        Field(
            ge=0,
            le=16,
            description="Accelerators and ranks per pod; 0 trains on the CPU with one rank. A "
            "local run maps the product to what the machine has, at the same global batch.",
        ),
    ] = 1
    gpu_type: Annotated[
        LabelValue | None,
        Field(
            min_length=1,
            description="The accelerator's product name, as nodes (nvidia.com/gpu.product) and "
            "rate cards have it.",
        ),
    ] = None
    cpu: Annotated[
        Cpus,
        Field(
            description="Processor cores of each pod, reserved and not exceeded. A local run uses "
            "what the machine has."
        ),
    ] = "2"
    memory: Annotated[
        Bytes,
        Field(
            description="Memory of each pod, reserved and not exceeded. A local run uses what the "
            "machine has."
        ),
    ] = "8Gi"
    node_selector: Annotated[
        dict[_QualifiedKey, LabelValue],
        Field(
            max_length=16,
            description=f"Labels that a node must have to run the pods. {_NOT_LOCALLY}",
        ),
    ] = Field(default_factory=dict, json_schema_extra={"default": {}})
    tolerations: Annotated[
        tuple[Toleration, ...],
        Field(max_length=16, description=f"Taints that the pods put up with. {_NOT_LOCALLY}"),
    ] = ()
