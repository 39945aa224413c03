"""Runs commands to their end, and says what is being done."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tools.cluster.failure import ClusterError, with_log

_WAIT_SECONDS = 180
_LOOK_SECONDS = 0.1


def say(line: str) -> None:
    """Print a line at once."""
    print(f"cluster: {line}", flush=True)


def run(
    *command: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> str:
    """Run a command and return what it printed.

    Raises
    ------
    ClusterError
        If it ends with anything but 0, with what it said.
    """
    done = subprocess.run(
        list(map(str, command)), input=stdin, capture_output=True, text=True, check=False, env=env
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise ClusterError(f"`{' '.join(map(str, command))}` ended with {done.returncode}: {said}")
    return done.stdout


def run_logged(
    what: str, log: Path, command: Sequence[str | Path], env: Mapping[str, str] | None = None
) -> None:
    """Run a long command with its output in a file.

    Raises
    ------
    ClusterError
        If it ends with anything but 0, with the end of the file.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        done = subprocess.run(
            list(map(str, command)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            env=env,
        )
    if done.returncode != 0:
        raise with_log(f"{what}: `{command[0]} …` ended with {done.returncode}", log)


def succeeds(*command: str | Path) -> bool:
    """Return whether a command ends with 0; what it says is not looked at."""
    return (
        subprocess.run(
            list(map(str, command)), capture_output=True, stdin=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )


def wait_for(what: str, holds: Callable[[], bool], seconds: float = _WAIT_SECONDS) -> None:
    """Return once it holds.

    Raises
    ------
    ClusterError
        If it never does.
    """
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            raise ClusterError(f"{what}: not so after {seconds:.0f} s; the logs say more")
        time.sleep(_LOOK_SECONDS)
