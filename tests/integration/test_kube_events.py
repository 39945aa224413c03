"""Events of a job, as `kubectl describe` shows them: told once, counted when told again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest

from finetune_operator.core.decision import Event
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import kubeconfig_connection
from finetune_operator.kube.events import EventWriter
from finetune_operator.kube.resources import EVENTS, FINETUNE_JOBS, Json
from harness.cluster import Cluster
from harness.objects import JOB, changed

RELEASED = Event(kind="Normal", reason="GangReleased", message="attempt 1: 2 workers")
STALLED = Event(kind="Warning", reason="Stalled", message="no progress for 10 minutes")


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubeClient]:
    async with KubeClient(await kubeconfig_connection(str(cluster.kubeconfig))) as opened:
        yield opened


@pytest.fixture
async def job(client: KubeClient, namespace: str) -> Json:
    return await client.create(FINETUNE_JOBS, changed(JOB, {"metadata.namespace": namespace}))


async def told(client: KubeClient, job: Json) -> dict[str, Json]:
    """Every event about the job, by its reason."""
    selector = f"involvedObject.uid={job['metadata']['uid']}"
    namespace = job["metadata"]["namespace"]
    events = (await client.list(EVENTS, namespace, field_selector=selector)).items
    by_reason = {event["reason"]: event for event in events}
    assert len(by_reason) == len(events), "an event was doubled"
    return by_reason


async def test_events_are_listed_with_their_job(
    client: KubeClient, cluster: Cluster, job: Json
) -> None:
    await EventWriter(client).tell(job, [RELEASED, STALLED])
    events = await told(client, job)
    assert events["Stalled"]["type"] == "Warning"
    assert events["Stalled"]["message"] == STALLED.message
    metadata = job["metadata"]
    shown = cluster.kubectl("describe", "finetunejob", "-n", metadata["namespace"], "reviews")
    assert "GangReleased" in shown.stdout
    assert "finetune-operator" in shown.stdout


async def test_an_event_that_is_told_again_is_counted(client: KubeClient, job: Json) -> None:
    # By another writer too: the one before may have crashed right after telling it.
    for _ in range(3):
        await EventWriter(client).tell(job, [STALLED])
    await EventWriter(client).tell(job, [RELEASED])
    events = await told(client, job)
    assert {reason: event["count"] for reason, event in events.items()} == {
        "Stalled": 3,
        "GangReleased": 1,
    }
    assert events["Stalled"]["lastTimestamp"] >= events["Stalled"]["firstTimestamp"]


async def test_a_namesake_has_events_of_its_own(client: KubeClient, job: Json) -> None:
    writer = EventWriter(client)
    await writer.tell(job, [STALLED])
    metadata = job["metadata"]
    await client.delete(FINETUNE_JOBS, metadata["name"], metadata["namespace"])
    again = changed(JOB, {"metadata.namespace": metadata["namespace"]})
    namesake = await client.create(FINETUNE_JOBS, again)
    await writer.tell(namesake, [STALLED])
    assert (await told(client, namesake))["Stalled"]["count"] == 1
    assert (await told(client, job))["Stalled"]["count"] == 1


async def test_a_message_too_long_for_an_event_is_cut_and_told_once(
    client: KubeClient, job: Json
) -> None:
    words = Event(kind="Warning", reason="TooLong", message="é" * 5000)
    for _ in range(2):
        await EventWriter(client).tell(job, [words])
    event = (await told(client, job))["TooLong"]
    assert event["message"].endswith("é…")
    assert event["count"] == 2


async def test_an_event_that_cannot_be_published_is_logged_and_nothing_is_raised(
    client: KubeClient, cluster: Cluster, job: Json, caplog: pytest.LogCaptureFixture
) -> None:
    kubeconfig = cluster.kubeconfig_of(job["metadata"]["namespace"], "default")
    async with KubeClient(await kubeconfig_connection(str(kubeconfig))) as stranger:
        with caplog.at_level(logging.WARNING):
            await EventWriter(stranger).tell(job, [RELEASED, STALLED])
    assert await told(client, job) == {}
    assert "GangReleased was not published" in caplog.text
    assert "Stalled was not published" in caplog.text
