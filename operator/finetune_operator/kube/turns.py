"""Gangs that want the same accelerators are placed one after the other.

Two gangs that are let go together may each get a part of what both need, and wait for each other
with devices held. How much is free is not known here (other people's pods count too), so one gang
of an accelerator type is placed at a time. A turn that takes too long is over: what can't be placed
at all must not hold up the others for longer. Asked by the engine at a look and at a release.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_api.times import parse_time
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.gangpods import gang_pods
from finetune_operator.kube.names import (
    GATE,
    GPU_PRODUCT_LABEL,
    GPU_RESOURCE,
    JOB_NAME_LABEL,
    RELEASED_AT_ANNOTATION,
)
from finetune_operator.kube.resources import Json

_TURN = timedelta(seconds=30)


def takes_turns(job: FineTuneJob, step: Step) -> bool:
    """Whether a step's gang wants accelerators; one that doesn't waits for no other."""
    return step is not Step.PREPARE and job.spec.compute.gpus_per_worker > 0


def ahead(cluster: Cluster, job: FineTuneJob, step: Step, now: datetime) -> str | None:
    """The other job, as NAMESPACE/NAME, whose gang is being placed now; None if it is our turn."""
    if not takes_turns(job, step):
        return None
    wanted = job.spec.compute.gpu_type
    for pod in _being_placed(cluster, now):
        metadata = pod["metadata"]
        product = pod["spec"].get("nodeSelector", {}).get(GPU_PRODUCT_LABEL)
        same = wanted is None or product is None or wanted == product
        if same and metadata["labels"][JOB_UID_LABEL] != job.metadata.uid:
            return f"{metadata['namespace']}/{metadata['labels'][JOB_NAME_LABEL]}"
    return None


def _being_placed(cluster: Cluster, now: datetime) -> Iterator[Json]:
    """Pods with accelerators that were let go a moment ago and have no node yet."""
    for pod in gang_pods(cluster.caches.pods.items()):
        metadata, spec = pod["metadata"], pod["spec"]
        if spec.get("nodeName") or "deletionTimestamp" in metadata or not _has_gpus(spec):
            continue
        if any(gate["name"] == GATE for gate in spec.get("schedulingGates", [])):
            continue
        released = metadata.get("annotations", {}).get(RELEASED_AT_ANNOTATION)
        if released is not None and now - parse_time(released) < _TURN:
            yield pod


def _has_gpus(spec: Json) -> bool:
    return any(
        GPU_RESOURCE in container.get("resources", {}).get("limits", {})
        for container in spec["containers"]
    )
