"""The cluster's networks: a namespace for the control plane, one for each node, a bridge between.

Nothing of it is seen from the machine itself: kubectl comes in by a forwarder on loopback.
"""

from __future__ import annotations

from pathlib import Path

from tools.cluster.commands import run, succeeds
from tools.cluster.place import CONTROL, CONTROL_ADDRESS, LAN_BITS, NODES, Node

_NAMESPACES = Path("/run/netns")
_BRIDGE = "lan"
_POD_BRIDGE = "pods"


def namespace_path(name: str) -> Path:
    """Return the file that stands for a network namespace."""
    return _NAMESPACES / name


def lay() -> None:
    """Make the namespaces, their links, addresses and routes."""
    _new_namespace(CONTROL)
    _ip(CONTROL, "link", "add", _BRIDGE, "type", "bridge")
    _ip(CONTROL, "address", "add", f"{CONTROL_ADDRESS}/{LAN_BITS}", "dev", _BRIDGE)
    _ip(CONTROL, "link", "set", _BRIDGE, "up")
    for node in NODES:
        _lay_node(node)
    for node in NODES:
        _ip(CONTROL, "route", "add", node.pod_range, "via", node.address)
        for other in NODES:
            if other != node:
                _ip(node.namespace, "route", "add", other.pod_range, "via", other.address)


def remove() -> None:
    """Remove them; links and routes go with their namespaces."""
    for name in (*(node.namespace for node in NODES), CONTROL):
        if namespace_path(name).exists():
            run("ip", "netns", "delete", name)


def _new_namespace(name: str) -> None:
    run("ip", "netns", "add", name)
    _ip(name, "link", "set", "lo", "up")
    _set(name, "net.ipv4.ip_forward", "1")


def _lay_node(node: Node) -> None:
    """Make a node's namespace, its place at the bridge, and a bridge for its pods."""
    _new_namespace(node.namespace)
    port = f"to-{node.name}"
    _ip(
        CONTROL,
        *("link", "add", port, "type", "veth"),
        *("peer", "name", "eth0", "netns", node.namespace),
    )
    _ip(CONTROL, "link", "set", port, "master", _BRIDGE, "up")
    _ip(node.namespace, "address", "add", f"{node.address}/{LAN_BITS}", "dev", "eth0")
    _ip(node.namespace, "link", "set", "eth0", "up")
    # kubelet and kube-proxy want a default route; it leads to the control plane and no further.
    _ip(node.namespace, "route", "add", "default", "via", CONTROL_ADDRESS)
    _ip(node.namespace, "link", "add", _POD_BRIDGE, "type", "bridge")
    _ip(node.namespace, "address", "add", f"{node.gateway}/24", "dev", _POD_BRIDGE)
    _ip(node.namespace, "link", "set", _POD_BRIDGE, "up")
    # A Service's answer from a pod on the same bridge must pass the rules that rewrote the request.
    _set(node.namespace, "net.bridge.bridge-nf-call-iptables", "1")


def pod_network(node: Node) -> dict[str, object]:
    """Return the CNI configuration of a node."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": _POD_BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{"subnet": node.pod_range, "gateway": node.gateway}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def listens(namespace: str, address: str, port: int) -> bool:
    """Return whether something takes connections there, seen from a namespace."""
    probe = f"exec 3<>/dev/tcp/{address}/{port}"
    return succeeds("nsenter", f"--net={namespace_path(namespace)}", "bash", "-c", probe)


def _ip(namespace: str, *arguments: str) -> None:
    run("ip", "-netns", namespace, *arguments)


def _set(namespace: str, key: str, value: str) -> None:
    """Set a kernel parameter of a namespace, where the kernel has it."""
    enter = ("nsenter", f"--net={namespace_path(namespace)}")
    if succeeds(*enter, "sysctl", "--values", key):
        run(*enter, "sysctl", "--quiet", "--write", f"{key}={value}")
