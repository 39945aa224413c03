"""Nodes whose kubelet is simulated: their objects, and their heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from finetune_api.times import format_time
from harness.clusterclient import MERGE, STRATEGIC_MERGE, ClusterClient, Object
from harness.kubeletstatus import NODE_ADDRESS, whole_now

NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
GPU = "nvidia.com/gpu"
GPU_PRODUCT = "nvidia.com/gpu.product"
LEASE_SECONDS = 40


@dataclass
class Node:
    """A node, as long as its kubelet lives."""

    name: str
    connected: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared while nothing of it reaches the API server, nor its pods."""


def node_object(
    name: str,
    *,
    cpu: str,
    memory: str,
    gpus: int,
    gpu_product: str,
    labels: Mapping[str, str],
    provider_id: str,
) -> Object:
    """Return a Node as its kubelet registers it."""
    resources = {"cpu": cpu, "memory": memory, "pods": "250", "ephemeral-storage": "1Ti"}
    own = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    if gpus:
        resources[GPU] = str(gpus)
        own[GPU_PRODUCT] = gpu_product
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": own | dict(labels)},
        "spec": {"providerID": provider_id} if provider_id else {},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": NODE_ADDRESS},
                {"type": "Hostname", "address": name},
            ],
            "conditions": node_conditions(),
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "simulated://1",
                "kernelVersion": "simulated",
                "kubeProxyVersion": "",
                "kubeletVersion": "v1.34.0-simulated",
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "simulated",
                "systemUUID": "",
            },
        },
    }


def node_conditions() -> list[Object]:
    """Return the conditions of a node that is well."""
    now = format_time(whole_now())
    well = {"MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"}
    reasons = {"Ready": "KubeletReady"}
    return [
        {
            "type": kind,
            "status": status,
            "reason": reasons.get(kind, f"KubeletHasNo{kind}"),
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        for kind, status in {**well, "Ready": "True"}.items()
    ]


async def register(client: ClusterClient, node: Object) -> None:
    """Make the node's object and its lease, and wait until pods can be bound to it."""
    name = node["metadata"]["name"]
    made = await client.request("POST", NODES, node)
    assert made.status == 201, made.message
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS} | _renewed(),
    }
    made = await client.request("POST", LEASES, lease)
    assert made.status == 201, made.message
    while True:
        seen = await client.request("GET", f"{NODES}/{name}")
        if seen.status == 200 and not seen.body["spec"].get("taints"):
            return
        await asyncio.sleep(0.1)


async def renew(client: ClusterClient, name: str) -> None:
    """Say that the node lives."""
    await client.request("PATCH", f"{LEASES}/{name}", {"spec": _renewed()}, content_type=MERGE)


async def mend(client: ClusterClient, name: str) -> None:
    """Say that the node is well, if the API server has it otherwise."""
    seen = await client.request("GET", f"{NODES}/{name}")
    if seen.status != 200:
        return
    conditions = {it["type"]: it["status"] for it in seen.body["status"].get("conditions", [])}
    if conditions.get("Ready") != "True":
        await client.request(
            "PATCH",
            f"{NODES}/{name}/status",
            {"status": {"conditions": node_conditions()}},
            content_type=STRATEGIC_MERGE,
        )


def _renewed() -> Object:
    now = datetime.now(UTC).replace(tzinfo=None)
    return {"renewTime": f"{now.isoformat(timespec='microseconds')}Z"}
