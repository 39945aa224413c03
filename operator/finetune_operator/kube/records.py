"""Usage records in the operator's namespace: read from the cache, written bound to a version."""

from typing import Any

from finetune_api.usage import UsageRecord
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.errors import AlreadyExistsError, ConflictError, NotFoundError
from finetune_operator.kube.resources import USAGE_RECORDS


def of_job(cluster: Cluster, uid: str) -> tuple[UsageRecord, ...]:
    """A job's records."""
    raw = cluster.caches.records.by_label(JOB_UID_LABEL, uid)
    return tuple(UsageRecord.model_validate(record, extra="ignore") for record in raw)


async def write(cluster: Cluster, record: UsageRecord) -> None:
    """Create a record, or replace the one that was read."""
    namespace, name = record.metadata.namespace, record.metadata.name
    cache = cluster.caches.records
    known = cache.get(namespace, name)
    body: dict[str, Any] = record.wire()
    try:
        if known is None:
            written = await cluster.client.create(USAGE_RECORDS, body, namespace=namespace)
        else:
            version = known["metadata"]["resourceVersion"]
            body["metadata"] = {**body["metadata"], "resourceVersion": version}
            written = await cluster.client.replace(USAGE_RECORDS, body)
    except (AlreadyExistsError, ConflictError):
        # Nothing watches records: what an earlier write did, whose answer was lost, is read here.
        cache.put(await cluster.client.get(USAGE_RECORDS, name, namespace))
        raise
    except NotFoundError:
        # Somebody has removed it, which nobody tells either: the next look makes it anew.
        if known is not None:
            cache.remove(known)
        raise
    cache.put(written)
