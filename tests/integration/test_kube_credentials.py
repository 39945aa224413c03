"""How the operator proves who it is: tokens that rotate, expire, or are made by a plugin."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.config import incluster_config

from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import Connection, find_connection, kubeconfig_connection
from finetune_operator.kube.errors import ForbiddenError, UnauthenticatedError, UnreachableError
from finetune_operator.kube.resources import PODS, Resource
from harness.cluster import Cluster
from harness.controlplane import HOST

NAMESPACES = Resource(
    group="", version="v1", plural="namespaces", kind="Namespace", namespaced=False
)
# Prints the token that lies in a file, and notes that it was asked.
PLUGIN = """
echo asked >> "$1/asked"
answer='{"apiVersion": "%s", "kind": "ExecCredential", "status": {"token": "%s"}}'
printf "$answer" "$2" "$(cat "$1/token")"
"""
PLUGIN_VERSION = "client.authentication.k8s.io/v1"


def kubeconfig_with(cluster: Cluster, folder: Path, user: dict[str, Any]) -> str:
    """Write the administrator's kubeconfig with another way to prove who that is."""
    content = json.loads(cluster.kubeconfig.read_text())
    content["users"][0]["user"] = user
    path = folder / "kubeconfig"
    path.write_text(json.dumps(content))
    return str(path)


def by_plugin(folder: Path) -> dict[str, Any]:
    """A user whose token a program prints."""
    arguments = ["-c", PLUGIN, "plugin", str(folder), PLUGIN_VERSION]
    return {"exec": {"apiVersion": PLUGIN_VERSION, "command": "/bin/sh", "args": arguments}}


def by_file(folder: Path) -> dict[str, Any]:
    """A user whose token lies in a file."""
    return {"tokenFile": str(folder / "token")}


async def test_a_token_that_the_api_server_does_not_know_is_refused(
    cluster: Cluster, tmp_path: Path
) -> None:
    kubeconfig = kubeconfig_with(cluster, tmp_path, {"token": "wrong"})
    async with KubeClient(await kubeconfig_connection(kubeconfig)) as client:
        with pytest.raises(UnauthenticatedError, match="list namespaces"):
            await client.list(NAMESPACES)


@pytest.mark.parametrize("user", [by_plugin, by_file])
async def test_credentials_that_are_no_longer_taken_are_read_anew(
    cluster: Cluster, tmp_path: Path, user: Any
) -> None:
    (tmp_path / "token").write_text("of yesterday")
    connection = await kubeconfig_connection(kubeconfig_with(cluster, tmp_path, user(tmp_path)))
    async with KubeClient(connection) as client:
        with pytest.raises(UnauthenticatedError):
            await client.list(NAMESPACES)
        (tmp_path / "token").write_text(cluster.tokens["admin"])
        assert (await client.list(NAMESPACES)).items


async def test_of_many_requests_that_are_refused_together_one_asks_the_plugin(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of yesterday")
    kubeconfig = kubeconfig_with(cluster, tmp_path, by_plugin(tmp_path))
    async with KubeClient(await kubeconfig_connection(kubeconfig)) as client:
        (tmp_path / "token").write_text(cluster.tokens["admin"])
        await asyncio.gather(*(client.list(NAMESPACES) for _ in range(10)))
    # Once at the start, once for all of them.
    assert (tmp_path / "asked").read_text().split() == ["asked"] * 2


async def test_credentials_that_cannot_be_read_anew_leave_the_refusal_as_it_was(
    cluster: Cluster, tmp_path: Path
) -> None:
    kubeconfig = kubeconfig_with(cluster, tmp_path, {"token": "wrong"})
    async with KubeClient(await kubeconfig_connection(kubeconfig)) as client:
        (tmp_path / "kubeconfig").unlink()
        with pytest.raises(UnauthenticatedError):
            await client.list(NAMESPACES)


@pytest.fixture
def pod_files(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a pod finds of its service account, in a folder of the test's own."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", HOST)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.port))
    authority = str(cluster.certificates.authority)
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", authority)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    return tmp_path


async def in_pod() -> Connection:
    return await find_connection({"KUBERNETES_SERVICE_HOST": HOST})


def token_of(cluster: Cluster, namespace: str) -> str:
    kubeconfig = json.loads(cluster.kubeconfig_of(namespace, "default").read_text())
    return str(kubeconfig["users"][0]["user"]["token"])


async def test_in_a_pod_the_operator_is_its_service_account(
    cluster: Cluster, namespace: str, pod_files: Path
) -> None:
    (pod_files / "token").write_text(token_of(cluster, namespace))
    async with KubeClient(await in_pod()) as client:
        with pytest.raises(ForbiddenError, match=f"system:serviceaccount:{namespace}:default"):
            await client.list(PODS, namespace)


async def test_a_token_that_the_kubelet_rotated_is_taken_up_without_a_refusal(
    cluster: Cluster, namespace: str, pod_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin: Any = incluster_config.InClusterConfigLoader.__init__

    def impatient(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._token_refresh_period = timedelta(0)

    monkeypatch.setattr(incluster_config.InClusterConfigLoader, "__init__", impatient)
    other = cluster.new_namespace()
    (pod_files / "token").write_text(token_of(cluster, namespace))
    async with KubeClient(await in_pod()) as client:
        (pod_files / "token").write_text(token_of(cluster, other))
        with pytest.raises(ForbiddenError, match=f"system:serviceaccount:{other}:default"):
            await client.list(PODS, namespace)
        # Caught in the middle of a rotation, a request is given up, not the operator.
        (pod_files / "token").write_text("")
        with pytest.raises(UnreachableError, match="token"):
            await client.list(PODS, namespace)
