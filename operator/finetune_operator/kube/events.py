"""What happened to a job, told where ``kubectl describe`` shows it. Called by the engine.

An event's name is made from what it says of which job: said again, after a crash or because it
happened again, it is counted instead of listed twice.
"""

import hashlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from finetune_api.times import format_time
from finetune_operator.core.decision import Event
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import AlreadyExistsError, ApiError
from finetune_operator.kube.names import MANAGER
from finetune_operator.kube.resources import EVENTS, FINETUNE_JOBS, Json

_log = logging.getLogger(__name__)

_MESSAGE_LIMIT = 1024
"""In characters: what `events.k8s.io` allows, under which the same events are read too."""
_NAME_DIGITS = 16


class EventWriter:
    """Publishes events of jobs.

    Parameters
    ----------
    client
        Of the API server that gets them.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def tell(self, job: Json, events: Sequence[Event]) -> None:
        """Publish events about a job; one that can't be published is logged and left out.

        No job is worth less for an event that nobody saw.
        """
        for event in events:
            try:
                await self._publish(job, event)
            except ApiError as error:
                _log.warning("event %s was not published: %s", event.reason, error)

    async def _publish(self, job: Json, event: Event) -> None:
        body = event_body(job, event, datetime.now(UTC))
        try:
            await self._client.create(EVENTS, body)
        except AlreadyExistsError:
            name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
            told = await self._client.get(EVENTS, name, namespace)
            again = {
                "count": told.get("count", 1) + 1,
                "lastTimestamp": body["lastTimestamp"],
            }
            await self._client.patch_merge(EVENTS, name, namespace, again)


def event_body(job: Json, event: Event, now: datetime) -> Json:
    """An event as the API server takes it, told for the first time."""
    metadata = job["metadata"]
    time = format_time(now.replace(microsecond=0))
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {"name": event_name(job, event), "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": FINETUNE_JOBS.api_version,
            "kind": FINETUNE_JOBS.kind,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": event.kind,
        "reason": event.reason,
        "message": _shortened(event.message),
        "source": {"component": MANAGER},
        "reportingComponent": MANAGER,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    }


def event_name(job: Json, event: Event) -> str:
    """The same for the same words about the same job."""
    about = job["metadata"]
    said = f"{about['uid']}\n{event.kind}\n{event.reason}\n{event.message}"
    return f"{about['name']}.{hashlib.sha256(said.encode()).hexdigest()[:_NAME_DIGITS]}"


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else f"{message[: _MESSAGE_LIMIT - 1]}…"
