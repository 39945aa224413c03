"""Volumes for claims, made beforehand: some that all nodes share, and some of one node alone.

They are folders of this machine. Volumes of kind `local` get the group that a pod asks for
(fsGroup), as a provisioner's do.
"""

from __future__ import annotations

import json
import shutil

from tools.cluster.controlplane import kubectl
from tools.cluster.place import NODES, VOLUMES

SHARED_CLASS = "shared"
"""ReadWriteMany, and the default."""
SINGLE_CLASS = "single"
"""ReadWriteOnce, on one node."""

_SHARED_VOLUMES = 24
_SINGLE_VOLUMES = 4
_SIZE = "200Gi"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def provide() -> None:
    """Make the storage classes and their volumes."""
    everywhere = [node.name for node in NODES]
    shared = [
        _volume(SHARED_CLASS, number, ["ReadWriteMany", "ReadWriteOnce"], everywhere)
        for number in range(_SHARED_VOLUMES)
    ]
    single = [
        _volume(f"{SINGLE_CLASS}-{node.name}", number, ["ReadWriteOnce"], [node.name])
        for node in NODES
        for number in range(_SINGLE_VOLUMES)
    ]
    classes = [_storage_class(SHARED_CLASS, default=True), _storage_class(SINGLE_CLASS)]
    objects = {"apiVersion": "v1", "kind": "List", "items": [*classes, *shared, *single]}
    kubectl("create", "-f", "-", stdin=json.dumps(objects))


def _storage_class(name: str, *, default: bool = False) -> dict[str, object]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": {_DEFAULT: "true"} if default else {}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _volume(prefix: str, number: int, modes: list[str], nodes: list[str]) -> dict[str, object]:
    """Make a volume's folder, and describe the volume."""
    name = f"{prefix}-{number}"
    folder = VOLUMES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    term = {
        "matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": nodes},
        ]
    }
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": prefix.partition("-")[0],
            "accessModes": modes,
            "capacity": {"storage": _SIZE},
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": str(folder)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    }
