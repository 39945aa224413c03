"""Processes, named so that the wrong one is never signalled. Standard library only; Linux.

A pid alone is reused. A process is named by its pid and start time, or by a pod's UID in its own
environment, and is signalled through a descriptor that was opened before the name was checked.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; None if there is none (or only its remains)."""
    stat = _stat(pid)
    return None if stat is None or stat[0] in {"Z", "X"} else int(stat[19])


def children(pid: int) -> list[int]:
    """The pids whose parent is this process, its dead and not yet reaped ones among them."""
    found = []
    for other in _pids():
        stat = _stat(other)
        if stat is not None and int(stat[1]) == pid:
            found.append(other)
    return found


def signal_process(pid: int, start: int, number: signal.Signals) -> bool:
    """Signal the process with this pid and start time; False if it is no more."""
    return _signal_if(pid, number, lambda: start_time(pid) == start)


def pids_with(variable: str, value: str) -> list[int]:
    """The live processes that were started with this environment variable."""
    return [pid for pid in _pids() if _has_variable(pid, variable, value)]


def signal_with(variable: str, value: str, number: signal.Signals) -> int:
    """Signal every process that was started with this variable; says how many there were."""
    return sum(
        _signal_if(pid, number, lambda pid=pid: _has_variable(pid, variable, value))  # type: ignore[misc]
        for pid in pids_with(variable, value)
    )


def become_subreaper() -> None:
    """Let orphaned descendants of this process become its children, so that it sees them end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the one that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _signal_if(pid: int, number: signal.Signals, is_it: Callable[[], bool]) -> bool:
    descriptor = _opened(pid)
    if descriptor is None:
        return False
    try:
        if not is_it():
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _opened(pid: int) -> int | None:
    """A descriptor of a process; None if there is none."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        # The number of a process that has ended may be a thread's of another one by now: Linux 6
        # then says ENOENT, and an older one EINVAL.
        if error.errno in (errno.ENOENT, errno.EINVAL):
            return None
        raise


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on: state, parent, …, start time at index 19."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _has_variable(pid: int, variable: str, value: str) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{variable}={value}".encode() in environment.split(b"\0")


def _prctl(option: int, argument: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")
