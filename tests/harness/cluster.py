"""A whole Kubernetes for tests of the operator, but for the nodes: those `kubelet.py` plays.

etcd, API server, controller manager and scheduler are the real ones. Each has a user of its own,
so that the audit log tells them apart. Two things are missing on purpose: endpoints, since the pods
here have loopback addresses, which an endpoint may not hold; and the root certificate that every
namespace gets, so that a new namespace holds nothing. `clustervolumes.py` gives claims a volume.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.audit import count_requests
from harness.clustervolumes import STORAGE_CLASSES, running_provisioner
from harness.controlplane import (
    HOST,
    MASTERS,
    ControlPlane,
    User,
    running_control_plane,
    write_kubeconfig,
)
from harness.processes import REPOSITORY, free_port, program, running

CRDS = REPOSITORY / "crds"
CONTROLLER_MANAGER = User("system:kube-controller-manager")
SCHEDULER = User("system:kube-scheduler")
NODES = "system:nodes"
KUBELET = User("kubelet", (NODES,))
PROVISIONER = User("provisioner", (MASTERS,))
OFF = (
    "endpoints-controller",
    "endpointslice-controller",
    "endpointslice-mirroring-controller",
    "root-ca-certificate-publisher-controller",
)
# What a real cluster limits to spare its API server would hide the operator's own pace.
REQUESTS_PER_SECOND = 1000
# A node counts as lost when its kubelet has been silent for so long (40 s and more elsewhere).
NODE_LOST_SECONDS = 12
# Guards against a hang alone.
GIVE_UP_SECONDS = 120
TOKEN_SECONDS = 24 * 3600
CUSTOM = "/apis/finetune.dev/v1alpha1"


@dataclass(frozen=True)
class Cluster(ControlPlane):
    """A running control plane with its controllers and the custom resources of `crds/`."""

    def new_namespace(self, prefix: str = "test-", labels: dict[str, str] | None = None) -> str:
        """Make a namespace in which pods can be created, and return its name."""
        body = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"generateName": prefix, "labels": labels or {}},
        }
        made = self.request("POST", "/api/v1/namespaces", body)
        assert made.status == http.client.CREATED, made.message
        name = str(made.body["metadata"]["name"])
        # Without its default account a namespace takes no pods.
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while self.request("GET", account).status != http.client.OK:
            assert time.monotonic() < give_up, f"{name} got no default service account"
            time.sleep(0.02)
        return name

    def clear(self, namespace: str) -> None:
        """Take away whatever still runs in a namespace, finalizers or not.

        The namespace itself stays: it is empty, and the whole cluster goes with the run.
        """
        inside = f"/namespaces/{namespace}"
        jobs = f"{CUSTOM}{inside}/finetunejobs"
        for collection in (jobs, f"/apis/batch/v1{inside}/jobs", f"/api/v1{inside}/pods"):
            for item in self.request("GET", collection).body["items"]:
                path = f"{collection}/{item['metadata']['name']}"
                policy = "gracePeriodSeconds=0&propagationPolicy=Background"
                self.request("DELETE", f"{path}?{policy}")
                if item["metadata"].get("finalizers"):
                    self.request(
                        "PATCH",
                        path,
                        {"metadata": {"finalizers": None}},
                        content_type="application/merge-patch+json",
                    )

    def kubeconfig_of(self, namespace: str, service_account: str) -> Path:
        """Return a kubeconfig with a fresh token of a service account that is there."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS},
        }
        made = self.request("POST", path, body)
        assert made.status == http.client.CREATED, made.message
        return write_kubeconfig(
            self.folder / f"{namespace}.{service_account}.{secrets.token_hex(4)}.kubeconfig",
            server=self.url,
            authority=self.certificates.authority,
            user=service_account,
            token=made.body["status"]["token"],
        )

    def requests(
        self,
        *,
        user: str | None = None,
        namespace: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Counter[tuple[str, str, str]]:
        """Count what was asked so far, by verb, resource and subresource (see `audit.py`).

        What is being answered at this moment may be missing, and a watch counts when it ends.
        """
        return count_requests(
            self.audit_log, user=user, namespace=namespace, since=since, until=until
        )


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Run the whole of it until the block ends.

    The custom resources come before the controller manager: its garbage collector learns of new
    kinds only every half minute.
    """
    users = (CONTROLLER_MANAGER, SCHEDULER, KUBELET, PROVISIONER)
    with ExitStack() as parts:
        plane = parts.enter_context(running_control_plane(folder, users=users))
        cluster = Cluster(**vars(plane))
        install(cluster)
        parts.enter_context(running_controller_manager(cluster))
        parts.enter_context(running_scheduler(cluster))
        parts.enter_context(running_provisioner(cluster, PROVISIONER.name))
        yield cluster


def install(cluster: Cluster) -> None:
    """Bring in the custom resources, the storage classes, and what a kubelet may do."""
    cluster.kubectl("apply", "--server-side", "-f", str(CRDS))
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=120s", "-f", str(CRDS))
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "kubelets"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": "system:node",
        },
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": NODES}],
    }
    for made in (
        cluster.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding),
        *(
            cluster.request("POST", "/apis/storage.k8s.io/v1/storageclasses", storage_class)
            for storage_class in STORAGE_CLASSES
        ),
    ):
        assert made.status == http.client.CREATED, made.message


@contextmanager
def running_controller_manager(cluster: Cluster) -> Iterator[None]:
    """Run the controller manager, each controller under its own service account."""
    port = free_port()
    command: list[str | Path] = [
        program("kube-controller-manager"),
        f"--kubeconfig={cluster.kubeconfig_for(CONTROLLER_MANAGER.name)}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
        f"--root-ca-file={cluster.certificates.authority}",
        f"--service-account-private-key-file={cluster.certificates.token_private_key}",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--controllers=" + ",".join(["*", *(f"-{name}" for name in OFF)]),
        f"--kube-api-qps={REQUESTS_PER_SECOND}",
        f"--kube-api-burst={2 * REQUESTS_PER_SECOND}",
        "--node-monitor-period=1s",
        f"--node-monitor-grace-period={NODE_LOST_SECONDS}s",
        f"--node-eviction-rate={REQUESTS_PER_SECOND}",
    ]
    log = cluster.folder / "kube-controller-manager.log"
    with running(command, log=log, ready=lambda: healthy(port)):
        yield


@contextmanager
def running_scheduler(cluster: Cluster) -> Iterator[None]:
    """Run the scheduler; what doesn't fit is tried again after at most two seconds."""
    port = free_port()
    configuration: dict[str, Any] = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {
            "kubeconfig": str(cluster.kubeconfig_for(SCHEDULER.name)),
            "qps": REQUESTS_PER_SECOND,
            "burst": 2 * REQUESTS_PER_SECOND,
        },
        "leaderElection": {"leaderElect": False},
        "podMaxBackoffSeconds": 2,
    }
    path = cluster.folder / "scheduler.json"
    path.write_text(json.dumps(configuration))
    command: list[str | Path] = [
        program("kube-scheduler"),
        f"--config={path}",
        f"--bind-address={HOST}",
        f"--secure-port={port}",
    ]
    log = cluster.folder / "kube-scheduler.log"
    with running(command, log=log, ready=lambda: healthy(port)):
        yield


def healthy(port: int) -> bool:
    """Return whether a component on this machine says so; its certificate is its own make."""
    connection = http.client.HTTPSConnection(
        HOST,
        port,
        context=ssl._create_unverified_context(),  # noqa: S323 - loopback, and nothing is sent
        timeout=5,
    )
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()
