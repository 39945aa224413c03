"""A job that this version can't read: it says so in a condition and is left as it is."""

from datetime import datetime

from pydantic import ValidationError

from finetune_api.phases import ConditionType, Reason
from finetune_api.status import JobStatus
from finetune_operator.core.conditions import with_condition
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.resources import FINETUNE_JOBS, Json


async def tell(cluster: Cluster, raw: Json, problem: str, now: datetime) -> None:
    """Set Admitted to False with what is wrong, unless that is said already."""
    try:
        before = JobStatus.model_validate(raw.get("status") or {}, extra="ignore")
    except ValidationError:
        # Written by a version that knows more: it isn't overwritten.
        return
    message = f"This version of the operator can't read the job: {problem}"
    metadata = raw["metadata"]
    conditions = with_condition(
        before.conditions,
        ConditionType.ADMITTED,
        "False",
        Reason.INVALID_SPEC,
        message,
        now=now,
        generation=metadata.get("generation", 1),
    )
    if conditions == before.conditions:
        return
    status = before.model_copy(
        update={
            "conditions": conditions,
            "reason": str(Reason.INVALID_SPEC),
            "message": message[:1024],
        }
    )
    body = {**raw, "status": status.wire()}
    written = await cluster.client.replace(FINETUNE_JOBS, body, subresource="status")
    cluster.caches.jobs.put(written)
