"""The deletion of a FineTuneJob whose time after its end is over. Called by ``runtime``."""

import logging

from finetune_operator.kube.cache import Cache
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NotFoundError
from finetune_operator.kube.resources import FINETUNE_JOBS, Json

_log = logging.getLogger(__name__)


async def delete(client: KubeClient, jobs: Cache, job: Json) -> None:
    """Delete the job, if it still is the one that was decided on, to the letter.

    Its uid spares a namesake, its resourceVersion one whose time somebody has just changed: the
    API server then refuses, and the next look decides anew. What was made for the job follows in
    the background, by its owner references; the job itself waits for finalizers alone. The cache
    ``jobs`` takes in what became of it, so that it isn't deleted again before a watch says so.
    """
    metadata = job["metadata"]
    try:
        answer = await client.delete(
            FINETUNE_JOBS,
            metadata["name"],
            metadata["namespace"],
            uid=metadata["uid"],
            resource_version=metadata["resourceVersion"],
            propagation="Background",
        )
    except NotFoundError:
        jobs.remove(job)
        return
    _log.info("deleted: policy.ttlSecondsAfterFinished is over")
    if answer["kind"] == FINETUNE_JOBS.kind:
        jobs.put(answer)
    else:
        jobs.remove(job)
