"""Where a pod is bound, or would be, as far as its price depends on it. Pure."""

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TypeVar

from finetune_api.job import FineTuneJob
from finetune_api.ratecard import CapacityType
from finetune_api.report import Step
from finetune_operator.cost.pods import Placement
from finetune_operator.kube.names import (
    FAKE_GPUS_ANNOTATION,
    GPU_MEMORY_LABEL,
    GPU_PRODUCT_LABEL,
    GPU_RESOURCE,
    TRAINER_CONTAINER,
)
from finetune_operator.kube.resources import Json

_T = TypeVar("_T")

_REGION_LABEL = "topology.kubernetes.io/region"
_SPOT = (
    ("karpenter.sh/capacity-type", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("cloud.google.com/gke-spot", "true"),
    ("cloud.google.com/gke-preemptible", "true"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
)
_ON_DEMAND = (
    ("karpenter.sh/capacity-type", "on-demand"),
    ("eks.amazonaws.com/capacityType", "ON_DEMAND"),
    ("kubernetes.azure.com/scalesetpriority", "regular"),
)
_SUFFIXES = {
    "": 1,
    **{letter: 1000**power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)},
}
_MEBIBYTE = 2**20


def placement_of(pod: Json, node: Json | None) -> Placement:
    """Where a bound pod is. A node that is gone leaves only what the pod itself says."""
    resources = _requests(pod)
    labels = _labels(node)
    gpus = int(quantity(resources.get(GPU_RESOURCE, "0")))
    wanted = pod["spec"].get("nodeSelector", {}).get(GPU_PRODUCT_LABEL)
    return Placement(
        node=pod["spec"]["nodeName"],
        device=labels.get(GPU_PRODUCT_LABEL) or wanted or "gpu" if gpus else "cpu",
        milli_devices=1000 * (gpus or 1),
        milli_cores=0 if gpus else math.ceil(1000 * quantity(resources.get("cpu", "0"))),
        memory_mebibytes=0
        if gpus
        else math.ceil(quantity(resources.get("memory", "0")) / _MEBIBYTE),
        provider=_provider(node),
        region=labels.get(_REGION_LABEL),
        capacity_type=capacity_type(labels),
        fake_gpu=FAKE_GPUS_ANNOTATION in pod["metadata"].get("annotations", {}),
    )


def expected_placements(job: FineTuneJob, nodes: Iterable[Json]) -> dict[Step, Placement]:
    """Where each step's pods would be bound, as far as that is certain before.

    Of the nodes that could take a step only what all of them share is certain; a step for which
    there is none now is left out, since an autoscaler may still bring one.
    """
    nodes = tuple(nodes)
    compute = job.spec.compute
    found: dict[Step, Placement] = {}
    for step in Step:
        gpus = 0 if step is Step.PREPARE else compute.gpus_per_worker
        if step is Step.EVALUATE:
            gpus = min(1, gpus)
        fitting = [node for node in nodes if _fits(node, job, gpus)]
        if not fitting and not (gpus == 0 or compute.gpu_type):
            continue
        products = {_labels(node).get(GPU_PRODUCT_LABEL) for node in fitting}
        device = (compute.gpu_type or _only(products) or "gpu") if gpus else "cpu"
        found[step] = Placement(
            node="",
            device=device,
            milli_devices=1000 * (gpus or 1),
            milli_cores=0 if gpus else math.ceil(1000 * quantity(compute.cpu)),
            memory_mebibytes=0 if gpus else math.ceil(quantity(compute.memory) / _MEBIBYTE),
            provider=_only({_provider(node) for node in fitting}),
            region=_only({_labels(node).get(_REGION_LABEL) for node in fitting}),
            capacity_type=_only({capacity_type(_labels(node)) for node in fitting}),
        )
    return found


def least_device_memory(job: FineTuneJob, nodes: Iterable[Json]) -> int | None:
    """Bytes of the smallest accelerator that the job's gang may get, where every node's is told."""
    gpus = job.spec.compute.gpus_per_worker
    fitting = [node for node in nodes if _fits(node, job, gpus)]
    told = [_labels(node).get(GPU_MEMORY_LABEL, "") for node in fitting]
    if not gpus or not told or not all(text.isdecimal() for text in told):
        return None
    return min(map(int, told)) * _MEBIBYTE


def quantity(text: str) -> Decimal:
    """Read a Kubernetes quantity: plain, with a suffix (500m, 8Gi), or with an exponent (1e3)."""
    if text.endswith("m"):
        return Decimal(text[:-1]) / 1000
    number = text.rstrip("KMGTPEki")
    factor: int | None = _SUFFIXES.get(text[len(number) :])
    return Decimal(text) if factor is None else Decimal(number) * factor


def capacity_type(labels: Mapping[str, str]) -> CapacityType | None:
    """How a node was bought, by the labels of the clouds and of Karpenter; None if none says."""
    if any(labels.get(key) == value for key, value in _SPOT):
        return CapacityType.SPOT
    if any(labels.get(key) == value for key, value in _ON_DEMAND):
        return CapacityType.ON_DEMAND
    return None


def _fits(node: Json, job: FineTuneJob, gpus: int) -> bool:
    labels = _labels(node)
    selector = dict(job.spec.compute.node_selector)
    if gpus and job.spec.compute.gpu_type:
        selector[GPU_PRODUCT_LABEL] = job.spec.compute.gpu_type
    if any(labels.get(key) != value for key, value in selector.items()):
        return False
    allocatable = node.get("status", {}).get("allocatable", {})
    return int(allocatable.get(GPU_RESOURCE, 0)) >= gpus


def _only(values: set[_T]) -> _T | None:
    return next(iter(values)) if len(values) == 1 else None


def _requests(pod: Json) -> Mapping[str, str]:
    containers = pod["spec"]["containers"]
    trainer = next(one for one in containers if one["name"] == TRAINER_CONTAINER)
    resources = trainer.get("resources", {})
    return {**resources.get("limits", {}), **resources.get("requests", {})}


def _labels(node: Json | None) -> Mapping[str, str]:
    return {} if node is None else node["metadata"].get("labels", {})


def _provider(node: Json | None) -> str | None:
    """The cloud, from the node's providerID (``aws:///eu-west-1a/i-…``)."""
    identity = "" if node is None else str(node.get("spec", {}).get("providerID", ""))
    return identity.partition("://")[0] or None
