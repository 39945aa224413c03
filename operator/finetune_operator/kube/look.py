"""Gathering what one job's decision is made from. Called by the engine; writes nothing.

The cache is asked first. Where a decision could rest on a pod that is there or is gone (a gang that
is to be released, an attempt that is to be ended), the API server itself is asked.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from finetune_api.job import FineTuneJob
from finetune_api.phases import TERMINAL
from finetune_api.report import Step
from finetune_api.status import AttemptStatus
from finetune_api.times import parse_time
from finetune_api.usage import UsageRecord
from finetune_operator.core.observed import EngineFacts
from finetune_operator.cost.orphans import vanished
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.errors import NotFoundError
from finetune_operator.kube.gangpods import gang_pods
from finetune_operator.kube.manifests.volumes import workspace_claim_of
from finetune_operator.kube.names import (
    ATTEMPT_ANNOTATION,
    ATTEMPT_LABEL,
    GATE,
    gang_name,
    job_selector,
)
from finetune_operator.kube.placement import expected_placements, least_device_memory
from finetune_operator.kube.resources import EVENTS, NODES, PODS, Json
from finetune_operator.kube.views import pod_view

_POLL_SECONDS = 5.0
_NODE_LOST = timedelta(minutes=5)
"""Of pods whose job is gone and can't say."""
_BLOCKED_AFTER = timedelta(seconds=3)


async def raw_pods(
    cluster: Cluster, job: FineTuneJob, records: Iterable[UsageRecord]
) -> tuple[Json, ...]:
    """The job's pods; from the API server where much depends on it."""
    cache, uid, namespace = cluster.caches.pods, job.metadata.uid, job.metadata.namespace
    known = gang_pods(cache.by_label(JOB_UID_LABEL, uid), namespace)
    if not _must_be_sure(job, known, records):
        return known
    listing = await cluster.client.list(PODS, namespace, label_selector=job_selector(uid))
    for pod in listing.items:
        cache.put(pod)
    return gang_pods(listing.items)


def _must_be_sure(job: FineTuneJob, known: Sequence[Json], records: Iterable[UsageRecord]) -> bool:
    """Whether an attempt may be ended by what the pods are now; its release looks for itself."""
    row = running_attempt(job)
    if row is None:
        return False
    own = [pod for pod in known if attempt_of(pod) == row.number]
    if len(own) < _workers(job, row) or not all(_lives(pod) for pod in own):
        return True
    uids = {pod["metadata"]["uid"] for pod in known}
    return any(
        entry.until is None and entry.pod_uid not in uids
        for record in records
        for entry in record.spec.entries
    )


def running_attempt(job: FineTuneJob) -> AttemptStatus | None:
    """The attempt that stands in the status and has not ended."""
    if job.status is None or job.status.phase in TERMINAL or not job.status.attempts:
        return None
    row = job.status.attempts[-1]
    return None if row.state == "Ended" else row


def _lives(pod: Json) -> bool:
    ended = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    return not ended and "deletionTimestamp" not in pod["metadata"]


def _workers(job: FineTuneJob, row: AttemptStatus) -> int:
    resolved = job.status.resolved if job.status else None
    return resolved.workers if resolved and row.step is Step.TRAIN else 1


def node_lost(job: FineTuneJob) -> timedelta:
    """How long a node may be silent until the job's pods on it count as ended."""
    return timedelta(seconds=job.spec.policy.node_lost_timeout_seconds)


async def views_of(
    cluster: Cluster, pods: Iterable[Json], now: datetime, lost: timedelta = _NODE_LOST
) -> tuple[PodView, ...]:
    """The pods as the core sees them."""
    return tuple(
        [
            pod_view(pod, await _node(cluster, pod["spec"].get("nodeName")), now, lost)
            for pod in pods
        ]
    )


def vanished_of(
    cluster: Cluster,
    job: FineTuneJob,
    records: Iterable[UsageRecord],
    views: Iterable[PodView],
    now: datetime,
) -> tuple[PodView, ...]:
    """Pods that are recorded as holding something and are gone without a trace."""
    uids = {view.uid for view in views}
    memory, uid = cluster.memory.looked, job.metadata.uid
    written = job.status.last_update_time if job.status else None
    seen = memory.get(uid) or (parse_time(written) if written else None)
    gone = tuple(
        view for record in records for view in vanished(record, uids, now, last_seen_at=seen)
    )
    if not gone:
        memory[uid] = now
    return gone


async def _node(cluster: Cluster, name: str | None) -> Json | None:
    """A node that is not known yet may be new: only the API server can say that it is gone."""
    if not name:
        return None
    known = cluster.caches.nodes.get(None, name)
    if known is not None:
        return known
    try:
        node = await cluster.client.get(NODES, name)
    except NotFoundError:
        return None
    cluster.caches.nodes.put(node)
    return node


def facts_of(cluster: Cluster, job: FineTuneJob) -> EngineFacts:
    """What this cluster offers the job."""
    settings = cluster.settings
    return EngineFacts(
        device="cuda",
        device_memory_bytes=least_device_memory(job, cluster.caches.nodes.items()),
        placements=expected_placements(job, cluster.caches.nodes.items()),
        control_interval_seconds=settings.control_interval.total_seconds(),
        records_namespace=settings.namespace,
        poll_seconds=_POLL_SECONDS,
        image=settings.trainer.image,
        workspace=f"pvc://{workspace_claim_of(job)}/{job.metadata.uid}/",
        machine="this cluster",
        deletes_jobs=True,
    )


async def blocked(
    cluster: Cluster, job: FineTuneJob, pods: Sequence[PodView], now: datetime
) -> str | None:
    """Why a gang doesn't come: what was said when its Job, or its pods, were refused."""
    if job.status is None:
        return None
    if refused := cluster.memory.refused.get(job.metadata.uid):
        return refused
    number = job.status.attempt + 1
    asked = cluster.memory.created.get((job.metadata.uid, number))
    if asked is None or now - asked < _BLOCKED_AFTER or _whole(job, pods, number):
        return None
    events = await cluster.client.list(
        EVENTS, job.metadata.namespace, field_selector="reason=FailedCreate,involvedObject.kind=Job"
    )
    ours = {gang_name(job, step, number) for step in Step}
    said = [event for event in events.items if event["involvedObject"].get("name") in ours]
    if not said:
        return "the controller manager has not made them yet"
    return str(max(said, key=_told_at).get("message", ""))


def _whole(job: FineTuneJob, pods: Sequence[PodView], number: int) -> bool:
    """Whether all pods of an attempt are there; a quota may let some of them in."""
    own = [pod for pod in pods if pod.attempt == number]
    resolved = job.status.resolved if job.status else None
    training = resolved is not None and any(pod.step is Step.TRAIN for pod in own)
    return len(own) >= (resolved.workers if resolved is not None and training else 1)


def _told_at(event: Json) -> str:
    return str(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"])


def is_gated(pod: Json) -> bool:
    """Whether a pod has not been released."""
    return any(gate["name"] == GATE for gate in pod["spec"].get("schedulingGates", []))


def attempt_of(pod: Json) -> int:
    """The attempt that a pod was released for, or before that, made for."""
    metadata = pod["metadata"]
    stamped = metadata.get("annotations", {}).get(ATTEMPT_ANNOTATION)
    return int(stamped or metadata["labels"][ATTEMPT_LABEL])
