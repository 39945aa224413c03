"""The finalizer of a FineTuneJob: while it is there, records are still to be sealed."""

from typing import Any

from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.errors import NotFoundError
from finetune_operator.kube.names import JOB_FINALIZER
from finetune_operator.kube.release import without_finalizer
from finetune_operator.kube.resources import FINETUNE_JOBS, Json


def holds(job: Json) -> bool:
    """Whether the job carries it."""
    return JOB_FINALIZER in job["metadata"].get("finalizers", [])


async def add(cluster: Cluster, job: Json) -> Json:
    """Put it on the job as it was read; returns the job with it."""
    metadata = job["metadata"]
    there = metadata.get("finalizers", [])
    operations: list[dict[str, Any]] = [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/finalizers", "value": [*there, JOB_FINALIZER]},
    ]
    return await _patch(cluster, job, operations)


async def remove(cluster: Cluster, job: Json) -> None:
    """Take it away, so that the job may go (or could at once, if it were deleted)."""
    if not holds(job):
        return
    try:
        written = await _patch(cluster, job, without_finalizer(job, JOB_FINALIZER))
    except NotFoundError:
        return
    if "deletionTimestamp" in written["metadata"] and not written["metadata"].get("finalizers"):
        cluster.caches.jobs.remove(written)


async def _patch(cluster: Cluster, job: Json, operations: list[dict[str, Any]]) -> Json:
    metadata = job["metadata"]
    written = await cluster.client.patch_json(
        FINETUNE_JOBS, metadata["name"], metadata["namespace"], operations
    )
    cluster.caches.jobs.put(written)
    return written
