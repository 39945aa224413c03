"""An API server that goes away, or forgets: on a control plane of the test's own."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import kubeconfig_connection
from finetune_operator.kube.errors import UnreachableError
from finetune_operator.kube.resources import CONFIG_MAPS
from harness.controlplane import (
    ADMIN,
    FIRST_SERVICE_ADDRESS,
    HOST,
    ControlPlane,
    api_server_command,
    running_etcd,
)
from harness.processes import free_port, running
from tools.cluster.certificates import make_certificates


@dataclass(frozen=True)
class Own:
    """A control plane whose store can be reached, and which can be stopped."""

    plane: ControlPlane
    etcd_url: str
    server: ExitStack

    def forget_the_past(self) -> None:
        """Compact etcd up to a write of now: what was before can't be read any more."""
        written = self._ask("put", {"key": "YQ==", "value": "YQ=="})
        self._ask("compaction", {"revision": written["header"]["revision"], "physical": True})

    def _ask(self, what: str, body: dict[str, Any]) -> Any:
        connection = http.client.HTTPConnection(self.etcd_url.removeprefix("http://"))
        try:
            connection.request("POST", f"/v3/kv/{what}", json.dumps(body))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@contextmanager
def running_own(folder: Path) -> Iterator[Own]:
    port = free_port()
    plane = ControlPlane(
        port=port,
        folder=folder,
        certificates=make_certificates(folder, addresses=(HOST, FIRST_SERVICE_ADDRESS)),
        tokens={ADMIN.name: "of-this-test-alone"},
    )
    with running_etcd(folder) as etcd_url, ExitStack() as server:
        # Its snapshots would serve what etcd has forgotten.
        command = [
            *api_server_command(plane, etcd_url, (ADMIN,)),
            "--feature-gates=ListFromCacheSnapshot=false",
        ]
        log = folder / "kube-apiserver.log"
        server.enter_context(running(command, log=log, ready=plane.ready))
        yield Own(plane, etcd_url, server)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Own]:
    with running_own(tmp_path) as started:
        yield started


async def test_a_list_whose_moment_was_forgotten_is_read_anew_and_a_stopped_server_is_unreachable(
    own: Own,
) -> None:
    asked: list[int] = []

    def note(_verb: str, _resource: str, code: int) -> None:
        asked.append(code)
        if asked == [200]:
            own.forget_the_past()

    connection = await kubeconfig_connection(str(own.plane.kubeconfig))
    async with KubeClient(connection, on_request=note) as client:
        for number in range(5):
            metadata = {"name": f"kept-{number}", "namespace": "default"}
            await client.create(CONFIG_MAPS, {"metadata": metadata})
        asked.clear()
        listing = await client.list(CONFIG_MAPS, "default", page=2)
        assert asked == [200, 410, 200]
        assert [one["metadata"]["name"] for one in listing.items] == [f"kept-{n}" for n in range(5)]

        own.server.close()
        asked.clear()
        with pytest.raises(UnreachableError, match="get configmaps default/kept-0") as caught:
            await client.get(CONFIG_MAPS, "kept-0", "default")
        assert caught.value.status is None
        with pytest.raises(UnreachableError, match="no answer"):
            await client.create(CONFIG_MAPS, {"metadata": metadata})
        # A read is tried once more, a write never: nobody knows what became of it.
        assert asked == [0, 0, 0]
