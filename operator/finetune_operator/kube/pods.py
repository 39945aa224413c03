"""The two things that are done to a pod once it runs: it is asked to end, and it is let go."""

from finetune_operator.core.decision import LAST_GRACE_SECONDS
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.errors import ConflictError, NotFoundError
from finetune_operator.kube.names import POD_FINALIZER
from finetune_operator.kube.release import without_finalizer
from finetune_operator.kube.resources import PODS, Json


async def stop(cluster: Cluster, pod: Json, grace_seconds: int) -> None:
    """Delete a pod that has not ended, with grace; its finalizer keeps what it leaves behind."""
    metadata = pod["metadata"]
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if ended or "deletionTimestamp" in metadata:
        return
    try:
        written = await cluster.client.delete(
            PODS,
            metadata["name"],
            metadata["namespace"],
            uid=metadata["uid"],
            grace_seconds=grace_seconds,
        )
    except (NotFoundError, ConflictError):
        # Gone meanwhile, or another pod has its name: the next look sees it.
        return
    _note(cluster, pod, written)


async def let_go(cluster: Cluster, pod: Json) -> None:
    """Take our finalizer from a pod whose use is recorded; one that has not ended is told to."""
    metadata = pod["metadata"]
    if POD_FINALIZER not in metadata.get("finalizers", []):
        return
    await stop(cluster, pod, LAST_GRACE_SECONDS)
    try:
        written = await cluster.client.patch_json(
            PODS, metadata["name"], metadata["namespace"], without_finalizer(pod, POD_FINALIZER)
        )
    except NotFoundError:
        return
    _note(cluster, pod, written)


def _note(cluster: Cluster, pod: Json, written: Json) -> None:
    """Keep what a write answered; a pod that went with it is answered as it last was, or not."""
    metadata = written.get("metadata", {})
    if metadata.get("uid") != pod["metadata"]["uid"]:
        return
    if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
        graceful = metadata.get("deletionGracePeriodSeconds", 0)
        if not graceful:
            cluster.caches.pods.remove(written)
            return
    cluster.caches.pods.put(written)
