"""Pods and open records whose job is gone: recorded, ended, let go, so that nothing hangs on us.

A job carries our finalizer until its records are sealed; it is gone before that only if somebody
took it away. Called by ``runtime`` once in a while.
"""

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime

from finetune_api.usage import JobReference, UsageRecord
from finetune_operator.cost.orphans import close_books
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.errors import ApiError, NotFoundError
from finetune_operator.kube.gangpods import gang_pods
from finetune_operator.kube.look import views_of
from finetune_operator.kube.names import JOB_NAME_LABEL, POD_FINALIZER
from finetune_operator.kube.pods import let_go, stop
from finetune_operator.kube.records import write
from finetune_operator.kube.resources import FINETUNE_JOBS, Json

_log = logging.getLogger(__name__)

_GRACE_SECONDS = 30
"""What a pod gets to end whose job can't say how long it may take."""


async def sweep(cluster: Cluster, now: datetime) -> None:
    """Close the books of every job that is gone; what fails for one is tried again next time."""
    for job in sorted(set(_owed(cluster)), key=lambda job: job.uid):
        try:
            if await _is_gone(cluster, job):
                await _close(cluster, job, now)
        except (ApiError, ValueError) as error:
            # One job's records may be of another version, or contradict each other.
            _log.warning("use of %s/%s, which is gone: %s", job.namespace, job.name, error)


def _owed(cluster: Cluster) -> Iterator[JobReference]:
    """Jobs that something is still owed to: a pod with our finalizer, or an unfinished record."""
    watched = cluster.settings.watch_namespaces
    for pod in gang_pods(cluster.caches.pods.items()):
        if POD_FINALIZER in pod["metadata"].get("finalizers", []):
            yield _owner(pod)
    for job in _unsettled(cluster.caches.records.items()):
        if not watched or job.namespace in watched:
            yield job


def _unsettled(records: Iterable[Json]) -> Iterator[JobReference]:
    """Jobs of records that aren't final; one of another version than this operator says nothing.

    No more is read of them than that: there are thousands, and each asked for again every time.
    """
    newest: dict[tuple[str, int], Json] = {}
    for record in records:
        spec = record["spec"]
        if {"job", "attempt"} <= spec.keys():
            key = (spec["job"]["uid"], spec["attempt"])
            if _revision(spec) >= _revision(newest.get(key, {})):
                newest[key] = spec
    for spec in newest.values():
        if not spec.get("lostSettled"):
            yield JobReference.model_validate(spec["job"], extra="ignore")


def _revision(spec: Json) -> int:
    revision: int = spec.get("revision", 0)
    return revision


def _owner(pod: Json) -> JobReference:
    metadata = pod["metadata"]
    return JobReference(
        namespace=metadata["namespace"],
        name=metadata["labels"][JOB_NAME_LABEL],
        uid=metadata["labels"][JOB_UID_LABEL],
    )


def _records(raw: Iterable[Json]) -> Iterator[UsageRecord]:
    return (UsageRecord.model_validate(record, extra="ignore") for record in raw)


async def _is_gone(cluster: Cluster, job: JobReference) -> bool:
    """Whether no job of this uid is there: asked of the API server before it is believed."""
    known = cluster.caches.jobs.get(job.namespace, job.name)
    if known is None:
        try:
            known = await cluster.client.get(FINETUNE_JOBS, job.name, job.namespace)
        except NotFoundError:
            return True
    uid: str = known["metadata"]["uid"]
    return uid != job.uid


async def _close(cluster: Cluster, job: JobReference, now: datetime) -> None:
    caches = cluster.caches
    pods = gang_pods(caches.pods.by_label(JOB_UID_LABEL, job.uid), job.namespace)
    records = tuple(_records(caches.records.by_label(JOB_UID_LABEL, job.uid)))
    views = await views_of(cluster, pods, now)
    cards = tuple(cluster.rate_cards())
    closing = close_books(job, records, views, cards, now, cluster.settings.namespace)
    for record in closing.records:
        await write(cluster, record)
    for pod in pods:
        if pod["metadata"]["uid"] in closing.free:
            await let_go(cluster, pod)
        else:
            await stop(cluster, pod, _GRACE_SECONDS)
    cluster.memory.forget(job.uid)
