"""A node: a mount namespace of its own, and in it containerd, kubelet and kube-proxy.

In that namespace the node's folder stands at /var/lib, /var/log and /run, so that its programs are
where they are on any node, and nothing of them is left on the machine.
"""

from __future__ import annotations

import json
from pathlib import Path

from tools.cluster.commands import wait_for
from tools.cluster.containers import answers, configuration, copied_store
from tools.cluster.controlplane import PROXY, ControlPlane, kubectl, user_of
from tools.cluster.daemons import Daemon, start, stop
from tools.cluster.images import PAUSE
from tools.cluster.network import pod_network
from tools.cluster.place import (
    CLUSTER_DOMAIN,
    CONTROL_ADDRESS,
    HOME,
    NODES,
    POD_RANGE,
    PROGRAMS,
    Node,
)

_MOUNTED = {"var-lib": "/var/lib", "var-log": "/var/log", "run": "/run"}
_GPU_RESOURCE = "nvidia.com/gpu"
_GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"


def daemons_of(node: Node) -> tuple[str, ...]:
    """Names of a node's daemons, in the order in which they are started."""
    return (
        f"{node.name}-mounts",
        f"{node.name}-containerd",
        _kubelet_name(node),
        _proxy_name(node),
    )


def begin(plane: ControlPlane, node: Node) -> None:
    """Start a node's programs, and return once it is Ready.

    Raises
    ------
    ClusterError
        If a part doesn't start.
    """
    for folder in _MOUNTED:
        (node.folder / folder).mkdir(parents=True)
    copied_store(node.folder / "var-lib" / "containerd")
    start(_mounts(node))
    start(_containerd(node))
    start(_proxy(plane, node))
    start_kubelet(plane.inside(user_of(node)), str(plane.certificates.authority), node)


def start_kubelet(kubeconfig: object, authority: str, node: Node) -> None:
    """Start a node's kubelet, for the first time or again, and return once the node is Ready."""
    start(_kubelet(str(kubeconfig), authority, node))
    wait_for(f"{node.name} to be Ready", lambda: _is_ready(node))
    invent_gpus(node)


def restart_kubelet(node: Node) -> None:
    """Start a kubelet that was stopped."""
    inside = HOME / "kubeconfigs" / user_of(node).replace(":", "-")
    start_kubelet(inside, str(HOME / "certificates" / "ca.crt"), node)


def stop_kubelet(node: Node) -> None:
    """Stop a node's kubelet; its containers run on."""
    stop(_kubelet_name(node))


def invent_gpus(node: Node) -> None:
    """Say that a node has accelerators: scheduling and metering are real then, they are not."""
    kubectl("label", "node", node.name, f"{_GPU_PRODUCT_LABEL}={node.gpu_product}", "--overwrite")
    path = _GPU_RESOURCE.replace("/", "~1")
    patch = [
        {"op": "add", "path": f"/status/{kind}/{path}", "value": str(node.gpus)}
        for kind in ("capacity", "allocatable")
    ]
    kubectl(
        *("patch", "node", node.name, "--subresource=status", "--type=json"),
        f"--patch={json.dumps(patch)}",
    )


def _is_ready(node: Node) -> bool:
    ready = '.status.conditions[?(@.type=="Ready")].status'
    query = f'jsonpath={{.items[?(@.metadata.name=="{node.name}")]{ready}}}'
    return kubectl("get", "nodes", "--output", query) == "True"


def _mounts(node: Node) -> Daemon:
    """What holds the node's mount namespace, which goes with its last process."""
    binds = [f"mount --bind {node.folder / folder} {target}" for folder, target in _MOUNTED.items()]
    there = node.folder / "run" / "mounted"
    # Among themselves its programs see each other's mounts, as the kubelet and its runtime must.
    share = "mount --make-rshared /"
    script = " && ".join([*binds, share, "touch /run/mounted", "exec sleep infinity"])
    return Daemon(
        name=f"{node.name}-mounts",
        network=None,
        command=["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        ready=there.exists,
    )


def _containerd(node: Node) -> Daemon:
    # Read in the node's own namespace, where its folder stands in place of the machine's.
    networks = HOME / "networks" / node.name
    networks.mkdir(parents=True)
    (networks / "pods.conflist").write_text(json.dumps(pod_network(node), indent=1))
    config = HOME / f"{node.name}-containerd.toml"
    root, state = Path("/var/lib/containerd"), Path("/run/containerd")
    config.write_text(
        configuration(root, state, state / "containerd.sock", pause=PAUSE, networks=networks)
    )
    return Daemon(
        name=f"{node.name}-containerd",
        network=node.namespace,
        mounts=f"{node.name}-mounts",
        command=["containerd", "--config", config],
        ready=lambda: answers(node.socket),
    )


def _kubelet(kubeconfig: str, authority: str, node: Node) -> Daemon:
    resolver = HOME / "resolv.conf"
    resolver.write_text("")
    config = HOME / f"{node.name}-kubelet.json"
    config.write_text(json.dumps(_kubelet_configuration(node, authority, str(resolver)), indent=1))
    return Daemon(
        name=_kubelet_name(node),
        network=node.namespace,
        mounts=f"{node.name}-mounts",
        command=[
            PROGRAMS / "kubelet",
            f"--kubeconfig={kubeconfig}",
            f"--config={config}",
            f"--hostname-override={node.name}",
            f"--node-ip={node.address}",
        ],
    )


def _kubelet_configuration(node: Node, authority: str, resolver: str) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.control_group}",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [CONTROL_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": resolver,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        # The disk is the machine's own, which is not this kubelet's to tidy.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
        "nodeStatusUpdateFrequency": "5s",
        "nodeLeaseDurationSeconds": 12,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "AlwaysAllow"},
    }


def _proxy(plane: ControlPlane, node: Node) -> Daemon:
    return Daemon(
        name=_proxy_name(node),
        network=node.namespace,
        mounts=f"{node.name}-mounts",
        command=[
            PROGRAMS / "kube-proxy",
            f"--kubeconfig={plane.inside(PROXY)}",
            f"--hostname-override={node.name}",
            f"--cluster-cidr={POD_RANGE}",
            "--proxy-mode=iptables",
            # Sizes of the machine's connection table are not a namespace's to change.
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ],
    )


def _kubelet_name(node: Node) -> str:
    return f"{node.name}-kubelet"


def _proxy_name(node: Node) -> str:
    return f"{node.name}-kube-proxy"


ALL_DAEMONS = tuple(name for node in NODES for name in daemons_of(node))
