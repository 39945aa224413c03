"""Starts and stops the cluster's programs, each by the process id that was noted when it started.

They outlive the command that starts them. Each writes its own log.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.cluster import groups
from tools.cluster.commands import say
from tools.cluster.failure import with_log
from tools.cluster.network import namespace_path
from tools.cluster.place import HOME, LOGS, PIDS

_READY_SECONDS = 180
_STOP_SECONDS = 30
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """One program, and how it is seen to work."""

    name: str
    command: Sequence[str | Path]
    network: str | None
    """Network namespace that it runs in; None: the machine's own."""
    mounts: str | None = None
    """Name of the daemon in whose mount namespace it runs; None: the machine's own."""
    ready: Callable[[], bool] = field(default=lambda: True)

    @property
    def log(self) -> Path:
        """What all its starts have said."""
        return LOGS / f"{self.name}.log"


def start(daemon: Daemon) -> None:
    """Start it and return once it is ready.

    Raises
    ------
    ClusterError
        If it ends, or isn't ready in time; with the end of its log.
    """
    for folder in (LOGS, PIDS):
        folder.mkdir(parents=True, exist_ok=True)
    enter: list[str | Path] = []
    if daemon.network is not None:
        enter.append(f"--net={namespace_path(daemon.network)}")
    if daemon.mounts is not None:
        enter.append(f"--mount=/proc/{_pid(daemon.mounts)}/ns/mnt")
    command = [*(["nsenter", *enter, "--"] if enter else []), *daemon.command]
    # The shell joins the group and becomes the program: what that starts is in the group too.
    join = 'echo $$ >"$0" && exec "$@"'
    with daemon.log.open("ab") as output:
        process = subprocess.Popen(
            ["sh", "-c", join, str(groups.of_daemons()), *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=HOME,
            start_new_session=True,
        )
    _note(daemon.name, process.pid)
    give_up = time.monotonic() + _READY_SECONDS
    while not daemon.ready():
        if process.poll() is not None:
            raise with_log(f"{daemon.name} ended with {process.returncode}", daemon.log)
        if time.monotonic() > give_up:
            raise with_log(f"{daemon.name} is not ready after {_READY_SECONDS} s", daemon.log)
        time.sleep(_LOOK_SECONDS)


def stop(name: str) -> None:
    """End it with SIGTERM, or SIGKILL if that doesn't help, and return once it is gone."""
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        if not is_running(name):
            break
        os.kill(_pid(name), number)
        _wait_gone(name, seconds)
    if is_running(name):
        say(f"{name} does not end")
    else:
        _file(name).unlink(missing_ok=True)


def is_running(name: str) -> bool:
    """Return whether the process that was started under this name still runs."""
    return _file(name).exists() and _identity(_pid(name)) == _file(name).read_text()


def _wait_gone(name: str, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while is_running(name) and time.monotonic() < give_up:
        time.sleep(_LOOK_SECONDS)


def _file(name: str) -> Path:
    return PIDS / name


def _pid(name: str) -> int:
    return int(_file(name).read_text().split()[0])


def _note(name: str, pid: int) -> None:
    _file(name).write_text(_identity(pid) or f"{pid} ended")


def _identity(pid: int) -> str | None:
    """Return a process's id and moment of start, which no later one shares; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    state, started = fields[0], fields[19]
    if state == "Z":
        # A child of this very process that has ended and was not asked for yet.
        return None
    return f"{pid} {started}"
