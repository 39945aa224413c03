"""Where everything of the cluster lies, and what it is called. Imported by every module here.

There is one cluster per machine: its network namespaces and its control group have fixed names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".cache"
PROGRAMS = Path(os.environ.get("FINETUNE_TOOLS") or CACHE / "tools").resolve() / "bin"

HOME = Path(os.environ.get("FINETUNE_CLUSTER") or CACHE / "cluster").resolve()
"""All that a running cluster writes; `down` leaves the logs of it and nothing else."""
LOGS = HOME / "logs"
PIDS = HOME / "pids"
KUBECONFIG = HOME / "kubeconfig"
"""The administrator's, over loopback."""
VOLUMES = HOME / "volumes"

IMAGES = Path(os.environ.get("FINETUNE_IMAGES") or CACHE / "images").resolve()
"""Built images and what they were built from. It outlives clusters."""
IMAGE_STORE = IMAGES / "containerd"
"""A containerd's root with all images in it; each node starts from a copy of it."""

CONTROL = "finetune-control"
"""Network namespace of the control plane, and of the bridge that the nodes are at."""
CONTROL_GROUP = "finetune-cluster"

CONTROL_ADDRESS = "10.240.0.1"
LAN_BITS = 24
API_PORT = 6443
SERVICE_RANGE = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"
CLUSTER_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Node:
    """A machine that the cluster believes in: a network of its own, and accelerators by label."""

    name: str
    number: int
    gpu_product: str
    gpus: int

    @property
    def namespace(self) -> str:
        """Its network namespace."""
        return f"finetune-{self.name}"

    @property
    def address(self) -> str:
        """Where kubelet and API server reach each other."""
        return f"10.240.0.{10 + self.number}"

    @property
    def pod_range(self) -> str:
        """Addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def gateway(self) -> str:
        """Its own address among its pods."""
        return f"10.244.{self.number}.1"

    @property
    def folder(self) -> Path:
        """Its files: what stands at /var/lib, /var/log and /run for its programs."""
        return HOME / "nodes" / self.name

    @property
    def socket(self) -> Path:
        """Its containerd's, seen from outside."""
        return self.folder / "run" / "containerd" / "containerd.sock"

    @property
    def control_group(self) -> str:
        """Below which the kubelet puts its pods."""
        return f"{CONTROL_GROUP}/{self.name}"


NODES = (
    Node("node-a", 1, "NVIDIA-H100-80GB-HBM3", 8),
    Node("node-b", 2, "NVIDIA-A100-SXM4-80GB", 8),
)
"""Two, so that a node can be drained or lost while its work goes on. The GPUs are invented."""


def node_named(name: str) -> Node:
    """Return the node of that name."""
    return next(node for node in NODES if node.name == name)
