"""The election over a real Lease: one holder at a time, and a new one when it falls silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import kubeconfig_connection
from finetune_operator.kube.lease import Lease
from finetune_operator.kube.resources import LEASES
from harness.cluster import Cluster
from harness.controlplane import HOST, write_kubeconfig

NAME = "finetune-operator"
SHORT = timedelta(seconds=2)
MINUTE = timedelta(minutes=1)
LONG = timedelta(minutes=10)
GIVE_UP_SECONDS = 120


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubeClient]:
    async with KubeClient(await kubeconfig_connection(str(cluster.kubeconfig))) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _another_timezone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run as where local time is not UTC."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def a_lease(
    client: KubeClient, namespace: str, identity: str, duration: timedelta = SHORT
) -> Lease:
    return Lease(client, namespace=namespace, name=NAME, identity=identity, duration=duration)


@asynccontextmanager
async def keeping(lease: Lease) -> AsyncIterator[asyncio.Task[None]]:
    """Renew a lease until the block ends; then its holder is silent, as one that was killed."""
    task = asyncio.create_task(lease.keep())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def spec_of(client: KubeClient, namespace: str) -> Any:
    return (await client.get(LEASES, NAME, namespace))["spec"]


async def renewals(client: KubeClient, namespace: str, count: int) -> None:
    """Wait until the lease was renewed so often."""
    async with asyncio.timeout(GIVE_UP_SECONDS):
        last = await spec_of(client, namespace)
        while count:
            await asyncio.sleep(0.05)
            spec = await spec_of(client, namespace)
            count -= spec["renewTime"] != last["renewTime"]
            last = spec


async def test_the_first_to_come_makes_the_lease_and_holds_it(
    client: KubeClient, namespace: str
) -> None:
    lease = a_lease(client, namespace, "first")
    assert not lease.held.is_set()
    before = datetime.now(UTC)
    await lease.acquire()
    after = datetime.now(UTC)
    assert lease.held.is_set()
    spec = await spec_of(client, namespace)
    assert spec["holderIdentity"] == "first"
    assert spec["leaseDurationSeconds"] == 2
    assert spec["leaseTransitions"] == 0
    assert before <= datetime.fromisoformat(spec["renewTime"]) <= after
    assert spec["acquireTime"] == spec["renewTime"]


async def test_while_one_renews_it_nobody_else_gets_it(client: KubeClient, namespace: str) -> None:
    first, second = a_lease(client, namespace, "first"), a_lease(client, namespace, "second")
    await first.acquire()
    async with keeping(first):
        waiting = asyncio.create_task(second.acquire())
        # Many times its duration, if each renewal counts.
        await renewals(client, namespace, 20)
        assert not waiting.done()
        assert first.held.is_set()
        waiting.cancel()
    assert not second.held.is_set()
    assert (await spec_of(client, namespace))["leaseTransitions"] == 0


async def test_when_its_holder_falls_silent_the_next_one_takes_it(
    client: KubeClient, namespace: str
) -> None:
    first, second = a_lease(client, namespace, "first"), a_lease(client, namespace, "second")
    await first.acquire()
    async with keeping(first):
        await renewals(client, namespace, 2)
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await second.acquire()
    spec = await spec_of(client, namespace)
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("second", 1)
    # Back from wherever it was, the first one finds out and stops.
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await first.keep()
    assert not first.held.is_set()
    assert (await spec_of(client, namespace))["holderIdentity"] == "second"


async def test_a_holder_whose_clock_is_far_off_keeps_it_while_it_renews_and_loses_it_when_silent(
    client: KubeClient, namespace: str
) -> None:
    """Only change is seen as life: times of another machine say nothing."""
    ago, ahead = "2001-01-01T00:00:00.000000Z", "2101-01-01T00:00:00.000000Z"
    metadata = {"name": NAME, "namespace": namespace}
    spec: dict[str, Any] = {"holderIdentity": "far-off", "leaseDurationSeconds": 600}
    spec |= {"acquireTime": ago, "renewTime": ago}
    made = await client.create(LEASES, {"metadata": metadata, "spec": spec})
    second = a_lease(client, namespace, "second")
    waiting = asyncio.create_task(second.acquire())
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await seen_by(second, client, namespace)
    assert not waiting.done()
    spec |= {"leaseDurationSeconds": 1, "renewTime": ahead}
    await client.replace(LEASES, {**made, "spec": spec})
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await waiting
    assert (await spec_of(client, namespace))["holderIdentity"] == "second"


async def test_of_many_that_come_at_once_one_gets_it(client: KubeClient, namespace: str) -> None:
    leases = [a_lease(client, namespace, f"number-{n}", MINUTE) for n in range(8)]
    waiting = [asyncio.create_task(lease.acquire()) for lease in leases]
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for lease in leases:
            await seen_by(lease, client, namespace)
    holders = [lease for lease in leases if lease.held.is_set()]
    for task in waiting:
        task.cancel()
    assert len(holders) == 1
    spec = await spec_of(client, namespace)
    assert spec["holderIdentity"] == f"number-{leases.index(holders[0])}"


async def seen_by(lease: Lease, client: KubeClient, namespace: str) -> None:
    """Wait until one that doesn't hold it has looked at the lease as it is, and let it be."""
    spec = await spec_of(client, namespace)
    while True:
        if lease.held.is_set() or lease._seen == spec:
            return
        await asyncio.sleep(0.05)


async def test_a_released_lease_is_taken_at_once(client: KubeClient, namespace: str) -> None:
    first = a_lease(client, namespace, "first", LONG)
    await first.acquire()
    await first.release()
    assert not first.held.is_set()
    assert (await spec_of(client, namespace))["holderIdentity"] == ""
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await a_lease(client, namespace, "second", LONG).acquire()
    spec = await spec_of(client, namespace)
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("second", 600)


async def test_a_lease_that_somebody_else_took_is_not_released_for_them(
    client: KubeClient, namespace: str
) -> None:
    first = a_lease(client, namespace, "first")
    await first.acquire()
    await client.patch_merge(LEASES, NAME, namespace, {"spec": {"holderIdentity": "second"}})
    await first.release()
    assert (await spec_of(client, namespace))["holderIdentity"] == "second"


async def test_a_holder_that_finds_another_name_in_the_lease_stops_and_lets_it_be(
    client: KubeClient, namespace: str
) -> None:
    first = a_lease(client, namespace, "first", LONG)
    await first.acquire()
    await client.patch_merge(LEASES, NAME, namespace, {"spec": {"holderIdentity": "second"}})
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await first.keep()
    assert not first.held.is_set()
    assert (await spec_of(client, namespace))["holderIdentity"] == "second"


async def test_a_holder_that_starts_again_under_its_name_goes_on(
    client: KubeClient, namespace: str
) -> None:
    await a_lease(client, namespace, "first", LONG).acquire()
    again = a_lease(client, namespace, "first", LONG)
    async with asyncio.timeout(GIVE_UP_SECONDS):
        await again.acquire()
    assert (await spec_of(client, namespace))["leaseTransitions"] == 0


async def test_a_change_by_somebody_else_to_the_lease_object_does_not_end_the_holding(
    client: KubeClient, namespace: str
) -> None:
    lease = a_lease(client, namespace, "first")
    await lease.acquire()
    async with keeping(lease):
        for number in range(5):
            note = {"metadata": {"annotations": {"note": str(number)}}}
            await client.patch_merge(LEASES, NAME, namespace, note)
            await renewals(client, namespace, 1)
        assert lease.held.is_set()


async def test_a_holder_that_is_cut_off_stops_before_anybody_else_begins(
    client: KubeClient, cluster: Cluster, namespace: str
) -> None:
    async with AsyncExitStack() as stack:
        road = await stack.enter_async_context(forwarding(cluster))
        connection = await kubeconfig_connection(str(road.kubeconfig))
        cut_off = await stack.enter_async_context(KubeClient(connection))
        first, second = a_lease(cut_off, namespace, "first"), a_lease(client, namespace, "second")
        await first.acquire()
        async with keeping(first) as kept, asyncio.timeout(GIVE_UP_SECONDS):
            await renewals(client, namespace, 2)
            road.open.clear()
            await second.acquire()
            assert not first.held.is_set()
            await kept


@dataclass
class Road:
    """The way to the API server, which can be cut without a word."""

    kubeconfig: Path
    open: asyncio.Event


@asynccontextmanager
async def forwarding(cluster: Cluster) -> AsyncIterator[Road]:
    """Pass all bytes on to the API server and back, while the road is open."""
    passable = asyncio.Event()
    passable.set()
    running: set[asyncio.Task[None]] = set()

    async def pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while content := await source.read(65536):
            await passable.wait()
            sink.write(content)
        sink.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(HOST, cluster.port)
        for way in (pass_on(reader, there_writer), pass_on(there_reader, writer)):
            running.add(asyncio.create_task(way))

    server = await asyncio.start_server(connect, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    kubeconfig = write_kubeconfig(
        cluster.folder / f"forwarded-{port}.kubeconfig",
        server=f"https://{HOST}:{port}",
        authority=cluster.certificates.authority,
        user="admin",
        token=cluster.tokens["admin"],
    )
    try:
        yield Road(kubeconfig, passable)
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
