"""Starts the real programs that tests talk to, and ends them by what was started.

Used by `controlplane.py` and `objectstore.py`. A server here listens on loopback
only, writes into its own log, and dies with the test run, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Below the range from which the kernel takes ports for outgoing connections, so
# that no client of another test sits on a port between its choice and its use.
SERVER_PORTS = range(20_000, 32_000)
# Guards against a hang alone: a shared machine may be slow, and that fails no test.
READY_WITHIN_SECONDS = 180
PATIENCE_SECONDS = 1200
STOP_WITHIN_SECONDS = 30
PR_SET_PDEATHSIG = 1
_given: set[int] = set()


class ServerFailedError(Exception):
    """A server ended or stayed silent before it was ready; the message has its last lines."""


def program(name: str) -> Path:
    """Return the built program of that name, or skip the test that asks for it."""
    cache = Path(os.environ.get("FINETUNE_TOOLS") or REPOSITORY / ".cache" / "tools")
    path = cache / "bin" / name
    if not os.access(path, os.X_OK):
        pytest.skip(f'{name} is not built: make tools TOOLS="{name}"')
    return path


def free_port() -> int:
    """Return a loopback port that nothing listens on, and that was not returned before."""
    for port in random.sample(SERVER_PORTS, k=200):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise ServerFailedError(f"no free port among 200 tried in {SERVER_PORTS}")


@contextmanager
def running(
    command: list[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server from when it is ready until the block ends.

    Raises ServerFailedError, with the end of its log, when it doesn't get ready.
    """
    with log.open("wb") as output:
        server = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, **(environment or {})},
            # Ctrl-C must reach pytest alone, which then ends servers in order.
            start_new_session=True,
            # Nothing between fork and exec but one system call, made in the main thread.
            preexec_fn=end_with_parent,  # noqa: PLW1509
        )
    try:
        wait_until_ready(server, log=log, ready=ready)
        yield server
    finally:
        stop(server)


def wait_until_ready(
    server: subprocess.Popen[bytes], *, log: Path, ready: Callable[[], bool]
) -> None:
    """Wait until `ready` says so; a server that ended by then is an error at once."""
    give_up = time.monotonic() + READY_WITHIN_SECONDS
    while not ready():
        if server.poll() is not None:
            what = f"ended with {server.returncode} before it was ready"
        elif time.monotonic() > give_up:
            what = f"was not ready after {READY_WITHIN_SECONDS} s"
        else:
            time.sleep(0.1)
            continue
        last_lines = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise ServerFailedError(f"{log.stem} {what}; {log} ends:\n{last_lines}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server, asking first, and wait until it is gone and its ports are free."""
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(STOP_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def end_with_parent() -> None:
    """Ask the kernel to end this process when the test run dies without a word (SIGKILL)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def listens(port: int) -> bool:
    """Return whether something takes connections on that loopback port."""
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0
