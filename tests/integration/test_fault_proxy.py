"""The fault proxy passes on what it isn't asked to spoil, and spoils just what it is asked to."""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cluster import Cluster
from harness.clustergang import wait_until
from harness.faultproxy import FaultProxy, Strike, running_fault_proxy
from harness.processes import program


@pytest.fixture
def proxy(cluster: Cluster, tmp_path: Path) -> Iterator[FaultProxy]:
    with running_fault_proxy(cluster, tmp_path) as started:
        yield started


class Client:
    """Somebody who writes ConfigMaps through the proxy, and is told what the wire says."""

    def __init__(self, proxy: FaultProxy, cluster: Cluster, namespace: str) -> None:
        self.kubeconfig = proxy.kubeconfig(cluster.kubeconfig)
        content = json.loads(self.kubeconfig.read_text())
        self.address = content["clusters"][0]["cluster"]["server"].removeprefix("https://")
        self.authority = content["clusters"][0]["cluster"]["certificate-authority"]
        self.token = content["users"][0]["user"]["token"]
        self.path = f"/api/v1/namespaces/{namespace}/configmaps"

    def create(self, name: str) -> tuple[int, Any, str | None]:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        trust = ssl.create_default_context(cafile=self.authority)
        connection = http.client.HTTPSConnection(self.address, context=trust, timeout=60)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            connection.request("POST", self.path, json.dumps(body), headers)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read()), reply.headers["Retry-After"]
        finally:
            connection.close()

    def start_creating(self, name: str) -> subprocess.Popen[bytes]:
        """Do the same as a process that can be killed."""
        return subprocess.Popen(
            [
                program("kubectl"),
                f"--kubeconfig={self.kubeconfig}",
                "create",
                f"--namespace={self.path.split('/')[4]}",
                "configmap",
                name,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture
def client(proxy: FaultProxy, cluster: Cluster, namespace: str) -> Client:
    return Client(proxy, cluster, namespace)


def is_there(cluster: Cluster, client: Client, name: str) -> bool:
    return cluster.request("GET", f"{client.path}/{name}").status == 200


def test_what_is_not_planned_passes_and_is_counted(
    cluster: Cluster, proxy: FaultProxy, client: Client
) -> None:
    status, body, _ = client.create("one")
    assert (status, body["metadata"]["name"]) == (201, "one")
    assert client.create("one")[0] == 409
    assert [(it.number, it.method, it.path, it.code) for it in proxy.writes] == [
        (1, "POST", client.path, 201),
        (2, "POST", client.path, 409),
    ]
    assert is_there(cluster, client, "one")


@pytest.mark.parametrize(
    ("strike", "code"),
    [
        (Strike.CONFLICT, 409),
        (Strike.TOO_MANY, 429),
        (Strike.FAILED, 500),
        (Strike.UNAVAILABLE, 503),
    ],
)
def test_a_refused_write_is_not_made_and_only_the_planned_one_is_refused(
    cluster: Cluster, proxy: FaultProxy, client: Client, strike: Strike, code: int
) -> None:
    proxy.plan({2: strike})
    assert client.create("first")[0] == 201
    status, body, retry_after = client.create("second")
    assert (status, body["kind"], body["code"]) == (code, "Status", code)
    assert retry_after == ("1" if code == 429 else None)
    assert proxy.wait_until_struck(60)
    assert not is_there(cluster, client, "second")
    assert client.create("second")[0] == 201


@pytest.mark.parametrize(
    ("strike", "written"), [(Strike.DROP_REQUEST, False), (Strike.DROP_REPLY, True)]
)
def test_a_connection_breaks_before_or_after_the_write(
    cluster: Cluster, proxy: FaultProxy, client: Client, strike: Strike, *, written: bool
) -> None:
    proxy.plan({1: strike})
    with pytest.raises((OSError, http.client.HTTPException)):
        client.create("one")
    assert is_there(cluster, client, "one") is written


@pytest.mark.parametrize(
    ("strike", "written"), [(Strike.KILL_BEFORE, False), (Strike.KILL_AFTER, True)]
)
def test_the_client_dies_before_or_after_its_write(
    cluster: Cluster, proxy: FaultProxy, client: Client, strike: Strike, *, written: bool
) -> None:
    victims: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        victims[0].kill()
        victims[0].wait()

    proxy.plan({1: strike}, kill)
    victims.append(client.start_creating("one"))
    assert proxy.wait_until_struck(60)
    assert victims[0].wait() == -signal.SIGKILL
    assert is_there(cluster, client, "one") is written


@pytest.mark.parametrize(("strike", "written"), [(Strike.HOLD, False), (Strike.HOLD_REPLY, True)])
def test_a_write_or_its_answer_waits_for_what_is_done_meanwhile(
    cluster: Cluster, proxy: FaultProxy, client: Client, strike: Strike, *, written: bool
) -> None:
    there: list[bool] = []

    def meanwhile() -> None:
        there.append(is_there(cluster, client, "held"))

    proxy.plan_each(lambda write: strike if write.name == "held" else None, meanwhile)
    assert client.create("other")[0] == 201
    assert there == []
    assert client.create("held")[0] == 201
    assert there == [written]
    assert is_there(cluster, client, "held")


def test_a_duplicated_write_reaches_the_server_twice(proxy: FaultProxy, client: Client) -> None:
    proxy.plan({1: Strike.DUPLICATE})
    status, body, _ = client.create("one")
    assert (status, body["reason"]) == (409, "AlreadyExists")


def test_a_delayed_write_is_made_in_the_end(
    cluster: Cluster, proxy: FaultProxy, client: Client
) -> None:
    proxy.plan({1: Strike.DELAY})
    assert client.create("one")[0] == 201
    assert is_there(cluster, client, "one")


def test_leases_and_events_are_not_counted(
    cluster: Cluster, proxy: FaultProxy, client: Client, namespace: str
) -> None:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "leader", "namespace": namespace},
    }
    cluster.kubectl(
        f"--kubeconfig={client.kubeconfig}", "create", "-f", "-", stdin=json.dumps(lease)
    )
    assert proxy.writes == ()


def test_a_watch_flows_while_it_is_open_and_ends_with_its_reader(
    cluster: Cluster, proxy: FaultProxy, client: Client, tmp_path: Path
) -> None:
    namespace = client.path.split("/")[4]
    seen = tmp_path / "seen"
    with seen.open("wb") as output:
        watch = subprocess.Popen(
            [
                program("kubectl"),
                f"--kubeconfig={client.kubeconfig}",
                "get",
                "configmaps",
                f"--namespace={namespace}",
                "--watch",
                "--output=name",
            ],
            stdout=output,
        )
    try:
        assert client.create("one")[0] == 201
        wait_until(lambda: "configmap/one" in seen.read_text())
        assert client.create("two")[0] == 201
        wait_until(lambda: "configmap/two" in seen.read_text())
    finally:
        watch.kill()
        watch.wait()
    # The audit log has a watch when it ends.
    wait_until(lambda: cluster.requests(namespace=namespace)["watch", "configmaps", ""] == 1)
