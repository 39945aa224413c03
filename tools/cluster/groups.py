"""The control group that every process of the cluster is in, containers too: none gets away.

A process stays in the group of whoever started it, so that what is left at the end is found there,
and ended together.
"""

from __future__ import annotations

import time
from pathlib import Path

from tools.cluster.commands import wait_for
from tools.cluster.failure import ClusterError
from tools.cluster.place import CONTROL_GROUP, NODES

_ROOT = Path("/sys/fs/cgroup")
_DAEMONS = "daemons"
_GONE_SECONDS = 30


def make() -> None:
    """Make the group for daemons, and the one below which each kubelet puts its pods."""
    (_unified() / CONTROL_GROUP / _DAEMONS).mkdir(parents=True, exist_ok=True)
    for hierarchy in _hierarchies():
        for node in NODES:
            (hierarchy / node.control_group).mkdir(parents=True, exist_ok=True)
            _inherit_processors(hierarchy, node.control_group)


def of_daemons() -> Path:
    """Return the file to which a process writes its number to be in the group."""
    return _unified() / CONTROL_GROUP / _DAEMONS / "cgroup.procs"


def end_all() -> None:
    """Kill what is still in the group, and return once nothing is.

    Raises
    ------
    ClusterError
        If something can't be killed.
    """
    group = _unified() / CONTROL_GROUP
    if group.is_dir():
        (group / "cgroup.kill").write_text("1")
        wait_for("the cluster's processes to end", lambda: not _populated(group), _GONE_SECONDS)


def remove() -> None:
    """Remove the groups, the innermost first."""
    for hierarchy in {*_hierarchies(), _unified()}:
        group = hierarchy / CONTROL_GROUP
        if group.is_dir():
            _remove(group)


def _unified() -> Path:
    """Return where the unified hierarchy is mounted: it has the file that kills a group."""
    for candidate in (_ROOT, _ROOT / "unified"):
        if (candidate / "cgroup.controllers").exists():
            return candidate
    raise ClusterError(f"{_ROOT} has no unified hierarchy (cgroup 2): mount one at {_ROOT}/unified")


def _hierarchies() -> tuple[Path, ...]:
    """Return every hierarchy in which the kubelet looks for its group."""
    if _unified() == _ROOT:
        return (_ROOT,)
    return tuple(path for path in _ROOT.iterdir() if path.is_dir() and path.name != "unified")


def _inherit_processors(hierarchy: Path, group: str) -> None:
    """Give a new group the processors of its parents: cgroup 1 makes it without any."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        above = hierarchy
        for part in Path(group).parts:
            given, own = above / name, above / part / name
            if given.exists() and not own.read_text().strip():
                own.write_text(given.read_text())
            above /= part


def _populated(group: Path) -> bool:
    return "populated 1" in (group / "cgroup.events").read_text()


def _remove(group: Path) -> None:
    give_up = time.monotonic() + _GONE_SECONDS
    for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
        _remove_one(folder, give_up)
    _remove_one(group, give_up)


def _remove_one(folder: Path, give_up: float) -> None:
    """Remove a group; for a moment after its last process it is still busy."""
    while True:
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > give_up:
                raise ClusterError(f"{folder}: can't be removed ({error.strerror})") from error
            time.sleep(0.1)
        else:
            return
