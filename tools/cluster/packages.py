"""The Debian packages that the cluster and the images are made with."""

from __future__ import annotations

import os
import shutil

from tools.cluster.commands import run, run_logged, say, succeeds
from tools.cluster.failure import ClusterError
from tools.cluster.place import CACHE

FOR_IMAGES = ("buildah", "debootstrap", "gcc", "libc6-dev", "containerd", "runc")
FOR_CLUSTER = (
    *("containerd", "runc", "containernetworking-plugins"),
    *("iptables", "iproute2", "conntrack", "socat", "util-linux"),
)


def require(packages: tuple[str, ...]) -> None:
    """Install what is missing.

    Raises
    ------
    ClusterError
        If this isn't root on a Debian machine, or a package can't be had.
    """
    if os.geteuid() != 0:
        raise ClusterError("namespaces, mounts and control groups need root: run it as root")
    if shutil.which("apt-get") is None:
        raise ClusterError(f"this needs a Debian machine: install {' '.join(packages)} otherwise")
    missing = [name for name in packages if not _installed(name)]
    if not missing:
        return
    say(f"installing from Debian: {' '.join(missing)}")
    log = CACHE / "apt.log"
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    run_logged("apt-get update", log, ["apt-get", "update"], quiet)
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
    run_logged("apt-get install", log, install, quiet)


def _installed(name: str) -> bool:
    if not succeeds("dpkg-query", "--show", name):
        return False
    return "install ok installed" in run("dpkg-query", "--show", "--showformat=${Status}", name)
