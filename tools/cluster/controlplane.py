"""The cluster's brain: etcd, API server, controller manager, scheduler, names, and the way in."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.cluster.certificates import ClusterCertificates, make_certificates
from tools.cluster.commands import run, succeeds
from tools.cluster.daemons import Daemon, start
from tools.cluster.network import listens, namespace_path
from tools.cluster.place import (
    API_PORT,
    CLUSTER_DOMAIN,
    CONTROL,
    CONTROL_ADDRESS,
    FIRST_SERVICE_ADDRESS,
    HOME,
    KUBECONFIG,
    NODES,
    PROGRAMS,
    SERVICE_RANGE,
    Node,
)

LOOPBACK = "127.0.0.1"
DAEMONS = (
    *("etcd", "kube-apiserver", "forwarder"),
    *("kube-controller-manager", "kube-scheduler", "coredns"),
)
"""In the order in which they are started."""

_ETCD_PORT, _ETCD_PEER_PORT = 2379, 2380
_MANAGER_PORT, _SCHEDULER_PORT, _NAMES_READY_PORT = 10257, 10259, 8181
_ADMIN, _MANAGER = "admin", "system:kube-controller-manager"
_SCHEDULER, PROXY, _NAMES = "system:kube-scheduler", "system:kube-proxy", "system:coredns"
# So soon a node without a word is NotReady (Kubernetes' own default is 50 s).
NODE_LOST_SECONDS = 20


@dataclass(frozen=True)
class ControlPlane:
    """A control plane that has begun: what nodes need of it."""

    certificates: ClusterCertificates
    tokens: Mapping[str, str]

    def kubeconfig(self, user: str, server: str, path: Path) -> Path:
        """Write a kubeconfig of a user and return where it lies (JSON, which YAML readers take)."""
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "finetune",
            "clusters": [
                {
                    "name": "finetune",
                    "cluster": {
                        "server": server,
                        "certificate-authority": str(self.certificates.authority),
                    },
                }
            ],
            "users": [{"name": user, "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "finetune", "context": {"cluster": "finetune", "user": user}}],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=1))
        return path

    def inside(self, user: str) -> Path:
        """Write a kubeconfig for a program in the cluster's own networks."""
        path = HOME / "kubeconfigs" / user.replace(":", "-")
        return self.kubeconfig(user, f"https://{CONTROL_ADDRESS}:{API_PORT}", path)


def user_of(node: Node) -> str:
    """Name by which the API server knows a node's kubelet."""
    return f"system:node:{node.name}"


def begin() -> ControlPlane:
    """Start everything but the nodes, and return once it works.

    Raises
    ------
    ClusterError
        If a part doesn't start.
    """
    groups = {_ADMIN: "system:masters", **{user_of(node): "system:nodes" for node in NODES}}
    users = (*groups, _MANAGER, _SCHEDULER, PROXY, _NAMES)
    folder = HOME / "certificates"
    folder.mkdir(parents=True)
    addresses = (LOOPBACK, CONTROL_ADDRESS, FIRST_SERVICE_ADDRESS)
    plane = ControlPlane(
        certificates=make_certificates(folder, addresses=addresses),
        tokens={user: secrets.token_urlsafe() for user in users},
    )
    rows = [f'{plane.tokens[user]},{user},{user},"{groups.get(user, "")}"\n' for user in users]
    passes = HOME / "tokens.csv"
    passes.touch(mode=0o600)
    passes.write_text("".join(rows))
    start(_etcd())
    start(_api_server(plane, passes))
    port = _free_port()
    plane.kubeconfig(_ADMIN, f"https://{LOOPBACK}:{port}", KUBECONFIG)
    start(_forwarder(port))
    start(_controller_manager(plane))
    start(_scheduler(plane))
    _let_names_be_read()
    start(_names(plane))
    return plane


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl as the administrator, and return what it printed."""
    return run(PROGRAMS / "kubectl", "--kubeconfig", KUBECONFIG, *arguments, stdin=stdin)


def api_is_ready() -> bool:
    """Return whether the API server says so."""
    command = (PROGRAMS / "kubectl", "--kubeconfig", KUBECONFIG, "get", "--raw", "/readyz")
    return KUBECONFIG.exists() and succeeds(*command)


def _etcd() -> Daemon:
    client, peer = (f"http://{LOOPBACK}:{port}" for port in (_ETCD_PORT, _ETCD_PEER_PORT))
    return Daemon(
        name="etcd",
        network=CONTROL,
        command=[
            PROGRAMS / "etcd",
            f"--data-dir={HOME / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # nothing here must outlive a power cut
        ],
        ready=lambda: listens(CONTROL, LOOPBACK, _ETCD_PORT),
    )


def _api_server(plane: ControlPlane, passes: Path) -> Daemon:
    certificates = plane.certificates
    return Daemon(
        name="kube-apiserver",
        network=CONTROL,
        command=[
            PROGRAMS / "kube-apiserver",
            f"--etcd-servers=http://{LOOPBACK}:{_ETCD_PORT}",
            f"--secure-port={API_PORT}",
            f"--advertise-address={CONTROL_ADDRESS}",
            f"--tls-cert-file={certificates.server_certificate}",
            f"--tls-private-key-file={certificates.server_key}",
            f"--client-ca-file={certificates.authority}",
            f"--kubelet-client-certificate={certificates.kubelet_client_certificate}",
            f"--kubelet-client-key={certificates.kubelet_client_key}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            f"--service-account-key-file={certificates.token_public_key}",
            f"--service-account-signing-key-file={certificates.token_private_key}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--token-auth-file={passes}",
            "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP",
        ],
        ready=lambda: listens(CONTROL, CONTROL_ADDRESS, API_PORT),
    )


def _forwarder(port: int) -> Daemon:
    """The one way in: a port of the machine's loopback that leads to the API server."""
    inside = f"TCP\\:{CONTROL_ADDRESS}\\:{API_PORT}"
    return Daemon(
        name="forwarder",
        network=None,
        command=[
            "socat",
            f"TCP-LISTEN:{port},bind={LOOPBACK},fork,reuseaddr",
            f"EXEC:nsenter --net={namespace_path(CONTROL)} socat STDIO {inside}",
        ],
        ready=api_is_ready,
    )


def _controller_manager(plane: ControlPlane) -> Daemon:
    return Daemon(
        name="kube-controller-manager",
        network=CONTROL,
        command=[
            PROGRAMS / "kube-controller-manager",
            f"--kubeconfig={plane.inside(_MANAGER)}",
            f"--bind-address={LOOPBACK}",
            f"--root-ca-file={plane.certificates.authority}",
            f"--service-account-private-key-file={plane.certificates.token_private_key}",
            "--use-service-account-credentials",
            "--leader-elect=false",
            f"--node-monitor-grace-period={NODE_LOST_SECONDS}s",
        ],
        ready=lambda: listens(CONTROL, LOOPBACK, _MANAGER_PORT),
    )


def _scheduler(plane: ControlPlane) -> Daemon:
    return Daemon(
        name="kube-scheduler",
        network=CONTROL,
        command=[
            PROGRAMS / "kube-scheduler",
            f"--kubeconfig={plane.inside(_SCHEDULER)}",
            f"--bind-address={LOOPBACK}",
            "--leader-elect=false",
        ],
        ready=lambda: listens(CONTROL, LOOPBACK, _SCHEDULER_PORT),
    )


def _names(plane: ControlPlane) -> Daemon:
    corefile = HOME / "Corefile"
    corefile.write_text(f"""\
.:53 {{
    bind {CONTROL_ADDRESS}
    errors
    ready {LOOPBACK}:{_NAMES_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {plane.inside(_NAMES)}
        ttl 1
    }}
}}
""")
    return Daemon(
        name="coredns",
        network=CONTROL,
        command=[PROGRAMS / "coredns", "-conf", corefile],
        ready=lambda: listens(CONTROL, CONTROL_ADDRESS, 53),
    )


def _let_names_be_read() -> None:
    """Let CoreDNS see what it names."""
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    group = "rbac.authorization.k8s.io"
    role = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": _NAMES},
        "rules": rules,
    }
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": _NAMES},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": _NAMES},
        "subjects": [{"apiGroup": group, "kind": "User", "name": _NAMES}],
    }
    kubectl(
        "create",
        "-f",
        "-",
        stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": [role, binding]}),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
