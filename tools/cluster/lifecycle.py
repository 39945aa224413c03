"""Brings the cluster up from nothing, and takes it down to nothing."""

from __future__ import annotations

import shutil
import time

from tools.cluster import controlplane, daemons, groups, network, nodes, storage
from tools.cluster.commands import say
from tools.cluster.failure import ClusterError
from tools.cluster.packages import FOR_CLUSTER, require
from tools.cluster.place import HOME, KUBECONFIG, LOGS, NODES, PROGRAMS

_PROGRAMS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kubelet", "kube-proxy", "coredns", "kubectl"),
)
# A node's runtime and its mounts come last: they hold what the kubelet leaves.
_LAST = ("containerd", "mounts")


def is_up() -> bool:
    """Return whether every part of the cluster runs."""
    names = (*controlplane.DAEMONS, *nodes.ALL_DAEMONS)
    return all(daemons.is_running(name) for name in names) and controlplane.api_is_ready()


def up() -> None:
    """Start the cluster, unless it runs; what is left of an earlier one is taken away first.

    Raises
    ------
    ClusterError
        If a part can't be started. Nothing is left running then; the logs are kept.
    """
    require(FOR_CLUSTER)
    if missing := [name for name in _PROGRAMS if not (PROGRAMS / name).exists()]:
        raise ClusterError(f"not built: {' '.join(missing)}; `make tools` builds them")
    if is_up():
        say(f"is up already: KUBECONFIG={KUBECONFIG}")
        return
    down()
    shutil.rmtree(LOGS, ignore_errors=True)
    started = time.monotonic()
    try:
        _begin()
    except (ClusterError, KeyboardInterrupt):
        down()
        raise
    say(f"ready in {time.monotonic() - started:.0f} s: KUBECONFIG={KUBECONFIG}")


def _begin() -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    groups.make()
    network.lay()
    say("starting etcd, API server, controller manager, scheduler, CoreDNS")
    plane = controlplane.begin()
    storage.provide()
    for node in NODES:
        say(f"starting {node.name}: containerd, kubelet, kube-proxy")
        nodes.begin(plane, node)


def down() -> None:
    """Stop everything, and leave nothing but the logs.

    Raises
    ------
    ClusterError
        If something can't be ended or removed.
    """
    if HOME.is_dir():
        for name in _in_order_of_stopping():
            daemons.stop(name)
    groups.end_all()
    network.remove()
    groups.remove()
    for path in HOME.glob("*"):
        if path != LOGS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _in_order_of_stopping() -> list[str]:
    started = [*controlplane.DAEMONS, *nodes.ALL_DAEMONS]
    last = [name for name in started if name.endswith(_LAST)]
    kubelets = [name for name in started if name.endswith("kubelet")]
    rest = [name for name in started if name not in last and name not in kubelets]
    return [*reversed(kubelets), *reversed(rest), *reversed(last)]
