"""The files of one local pod: who writes each, and how. Standard library only.

A pod is a folder. The engine writes ``pod.json`` (who it is), ``launch.json`` (what to run) and
``stop.json`` (a request to end); the pod's supervisor writes ``life.json`` (what became of it) and
touches ``alive`` once a second. Whoever writes ``life.json`` holds the lock on ``lock``, and the
supervisor holds it as long as it lives: a lock that can be taken proves that it is gone.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

POD = "pod.json"
LAUNCH = "launch.json"
STOP = "stop.json"
LIFE = "life.json"
ALIVE = "alive"
LOCK = "lock"
LOG = "trainer.log"
SUPERVISOR_LOG = "supervisor.log"
TERMINATION = "termination.json"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """Who a pod is; written once, before anything runs."""

    uid: str
    step: str
    attempt: int
    worker: int
    created_at: str
    node: str
    device: str
    milli_devices: int
    fake_gpu: bool


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a pod's supervisor is to run, and for whom."""

    command: tuple[str, ...]
    environment: dict[str, str]
    """Added to the environment that the supervisor itself has."""
    parent_pid: int
    """The process whose end ends the pod."""
    grace_seconds: float


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A request to end: SIGTERM at once, SIGKILL after the grace."""

    reason: str
    requested_at: str
    grace_seconds: float


@dataclass(frozen=True, kw_only=True)
class Life:
    """What became of a pod. Times are RFC 3339 in UTC, to the millisecond."""

    bound_at: str | None = None
    """From here on it holds its devices."""
    started_at: str | None = None
    finished_at: str | None = None
    """Nothing of it holds a device any more."""
    exit_code: int | None = None
    """Of the launcher; 128 + n after signal n."""
    stopping: bool = False
    disrupted: str | None = None
    """Why it was ended by something else than the engine's request."""
    confirmed: bool = True
    """Whether ``finished_at`` was seen, or is the last proof of life."""
    supervisor_pid: int | None = None
    supervisor_start: int | None = None
    """Start time in clock ticks since boot: with the pid it names one process for good."""


def now() -> str:
    """The present moment as the wire has it, with its milliseconds."""
    return format_moment(datetime.now(UTC))


def format_moment(moment: datetime) -> str:
    """Write a moment in UTC, cut to the millisecond."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + (
        f"{moment.microsecond // 1000:03d}Z"
    )


_File = TypeVar("_File", Pod, Launch, Stop, Life)


def read(kind: type[_File], folder: Path, name: str) -> _File | None:
    """Read one of the files; None where it does not exist."""
    try:
        data: dict[str, Any] = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return None
    known = {field.name for field in fields(kind)}
    values = {key: value for key, value in data.items() if key in known}
    if "command" in values:
        values["command"] = tuple(values["command"])
    return kind(**values)


def write(value: Pod | Launch | Stop | Life, folder: Path, name: str) -> None:
    """Replace one of the files, so that a reader finds the old or the new one, whole."""
    write_atomic(folder / name, json.dumps(asdict(value), indent=1).encode())


def write_atomic(path: Path, content: bytes) -> None:
    """Make content durable under a name: written beside it, synced, renamed, folder synced."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Try to take a pod's lock; yields whether it was free. Let go of at the end."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def touch_alive(folder: Path) -> None:
    """Leave a proof of life: the file's time is the time of it."""
    path = folder / ALIVE
    path.touch()
    os.utime(path)


def last_seen(folder: Path) -> datetime | None:
    """The newest proof of life."""
    try:
        modified_ns = (folder / ALIVE).stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return datetime.fromtimestamp(modified_ns // 1_000_000 / 1000, UTC)


def environment_of(launch: Launch, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment that a pod's launcher gets."""
    return {**inherited, **launch.environment}
