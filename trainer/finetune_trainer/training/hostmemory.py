"""Whether the kernel killed something in this pod because its memory was used up.

A SIGKILL alone does not say so: an eviction or a person's hand looks the same.
"""

from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def oom_kills(own_cgroup: Path = Path("/proc/self/cgroup")) -> int:
    """Kills for memory in this process's control group so far; 0 where none are counted."""
    return sum(_count(path) for path in _counters(own_cgroup))


def _counters(own_cgroup: Path) -> list[Path]:
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:
        return []
    paths = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            paths.append(_CGROUPS / group.lstrip("/") / "memory.events")
        elif "memory" in controllers.split(","):
            paths.append(_CGROUPS / "memory" / group.lstrip("/") / "memory.oom_control")
    return paths


def _count(path: Path) -> int:
    try:
        fields = (line.split() for line in path.read_text().splitlines())
        return sum(int(field[1]) for field in fields if field[0] == "oom_kill")
    except (OSError, ValueError, IndexError):
        return 0
