"""Gives claims their volumes, as an external provisioner does; started by `cluster.py`.

Nothing is stored: no pod here writes. A volume is an object that the controller manager binds to
its claim, so that the scheduler lets the claim's pods go.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from harness.clusterclient import ClusterClient, Object
from harness.controlplane import ControlPlane
from harness.loopthread import loop_thread

PROVISIONER = "simulated.finetune.dev"
STORAGE_CLASS = "simulated"
STORAGE_CLASSES: tuple[Object, ...] = (
    {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    },
)
_ASKED_FOR = "volume.kubernetes.io/storage-provisioner"
_MADE_BY = "pv.kubernetes.io/provisioned-by"


@contextmanager
def running_provisioner(plane: ControlPlane, user: str) -> Iterator[None]:
    """Provision every claim of the simulated class until the block ends."""
    with loop_thread("provisioner") as thread:
        thread.start(_serve(plane, user))
        yield


async def _serve(plane: ControlPlane, user: str) -> None:
    async with ClusterClient(plane, user) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(_provision(client))
        tasks.create_task(_reclaim(client))


async def _provision(client: ClusterClient) -> None:
    async for seen in client.watch("/api/v1/persistentvolumeclaims"):
        for claim in seen.listed or (seen.changed,):
            if claim is not None and not seen.deleted and _waits(claim):
                await client.request("POST", "/api/v1/persistentvolumes", volume_for(claim))


async def _reclaim(client: ClusterClient) -> None:
    """Delete the volumes of claims that are gone, unless they are to be retained."""
    async for seen in client.watch("/api/v1/persistentvolumes"):
        for volume in seen.listed or (seen.changed,):
            if volume is not None and not seen.deleted and _is_over(volume):
                await client.request(
                    "DELETE", f"/api/v1/persistentvolumes/{volume['metadata']['name']}"
                )


def _waits(claim: Object) -> bool:
    asked_for = claim["metadata"].get("annotations", {}).get(_ASKED_FOR)
    return asked_for == PROVISIONER and "volumeName" not in claim["spec"]


def _is_over(volume: Object) -> bool:
    made_by = volume["metadata"].get("annotations", {}).get(_MADE_BY)
    released: bool = volume.get("status", {}).get("phase") == "Released"
    reclaimed: bool = volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    return made_by == PROVISIONER and released and reclaimed


def volume_for(claim: Object) -> Object:
    """Return the volume that a claim asks for, bound to it alone."""
    metadata, spec = claim["metadata"], claim["spec"]
    name = f"pvc-{metadata['uid']}"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {_MADE_BY: PROVISIONER}},
        "spec": {
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "accessModes": spec["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec["storageClassName"],
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "nfs": {"server": "127.0.0.1", "path": f"/{name}"},
        },
    }
