"""Watches, by kopf: each event refreshes a cache and wakes the job it is about. Nothing else.

kopf lists, watches, reconnects and finds the resources; its handlers of changes, timers, daemons
and indices are not used (they are driven by edges, and annotate what they see).
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

import kopf
from kopf._core.engines.peering import Identity

from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.cache import Cache
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.names import GROUP, JOB_NAME_LABEL, MANAGED_SELECTOR, VERSION
from finetune_operator.kube.resources import Json
from finetune_operator.runtime.controller import JobKey
from finetune_operator.runtime.metrics import OperatorMetrics

Wake = Callable[[JobKey], None]

_SERVER_TIMEOUT = 300
"""Seconds after which a watch is begun anew; a silently dead one lives no longer."""


def registry(
    cluster: Cluster, metrics: OperatorMetrics, wake: Wake, wake_all: Callable[[], None]
) -> kopf.OperatorRegistry:
    """The handlers: one for each kind that decisions are made from."""
    handlers = kopf.OperatorRegistry()
    caches = cluster.caches

    def noted(cache: Cache, event: kopf.RawEvent) -> Json:
        thing: Json = event["object"]
        if event["type"] == "DELETED":
            cache.remove(thing)
        else:
            cache.put(thing)
        metrics.last_event.labels(cache.resource.plural).set(time.time())
        return thing

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        found = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        return found if isinstance(found, kopf.ConnectionInfo) else None

    @kopf.on.event(GROUP, VERSION, "finetunejobs", registry=handlers)
    async def job(event: kopf.RawEvent, **_: Any) -> None:
        thing = noted(caches.jobs, event)
        if event["type"] == "DELETED":
            cluster.memory.forget(thing["metadata"]["uid"])
        wake(JobKey.of(thing))

    @kopf.on.event("v1", "pods", registry=handlers)
    async def pod(event: kopf.RawEvent, **_: Any) -> None:
        metadata = noted(caches.pods, event)["metadata"]
        labels = metadata.get("labels", {})
        if JOB_UID_LABEL in labels and JOB_NAME_LABEL in labels:
            wake(JobKey(metadata["namespace"], labels[JOB_NAME_LABEL]))

    @kopf.on.event(GROUP, VERSION, "ratecards", registry=handlers)
    async def rate_card(event: kopf.RawEvent, **_: Any) -> None:
        noted(caches.rate_cards, event)
        wake_all()

    @kopf.on.event("v1", "nodes", registry=handlers)
    async def node(event: kopf.RawEvent, **_: Any) -> None:
        # Heartbeats come all the time; what a node's loss means is looked up by who runs there.
        noted(caches.nodes, event)

    return handlers


def settings() -> kopf.OperatorSettings:
    """Settings of kopf: it stands alone, posts nothing, and asks only for what is ours."""
    made = kopf.OperatorSettings()
    made.peering.standalone = True
    made.posting.enabled = False
    made.scanning.disabled = True
    made.watching.server_timeout = _SERVER_TIMEOUT
    made.watching.client_timeout = _SERVER_TIMEOUT + 10
    made.watching.connect_timeout = 30
    made.watching.chunk_size = 500
    made.watching.label_selectors["v1", "pods"] = MANAGED_SELECTOR
    made.networking.request_timeout = 30
    return made


async def watch(
    handlers: kopf.OperatorRegistry,
    namespaces: Collection[str],
    identity: str,
    started: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    """Watch until told to stop; without namespaces, all of them. Raises what kopf can't mend."""
    await kopf.operator(
        # Left to itself, it asks for the user's name, which no image knows of an arbitrary one.
        identity=Identity(identity),
        registry=handlers,
        settings=settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        ready_flag=started,
        stop_flag=stop,
    )
