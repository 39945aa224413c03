"""Starts the train step as an engine does: a process per pod, and nothing known but what it says.

Used by `tests/local/test_train_*.py`. Every process started here is gone when its block is left.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from finetune_api.report import Progress, Step, Termination
from finetune_api.run import LAYOUT, Env
from finetune_api.tasks import Task
from finetune_trainer.training.manifest import Manifest, read_manifest
from harness.processes import PATIENCE_SECONDS, end_with_parent, free_port
from harness.trainer import a_run, an_environment


@dataclass(frozen=True)
class Job:
    """A job's folder with prepared rows and a model, and the settings of its training."""

    folder: Path
    training: Mapping[str, Any]
    ranks: int = 1
    workers: int = 1
    task: Task = Task.TEXT_CLASSIFICATION
    dataset: Mapping[str, Any] = field(default_factory=lambda: {"train": "sentences.csv"})
    model: str = "pvc://models/tiny-bert"
    lora: dict[str, Any] | None = None

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def checkpoints(self) -> Path:
        return self.workspace / LAYOUT.checkpoints

    def copied(self, folder: Path) -> Job:
        """The same job with a workspace of its own, as it stands now."""
        shutil.copytree(self.folder, folder)
        return dataclasses.replace(self, folder=folder)

    def manifest(self, attempt: int, step: int) -> Manifest:
        manifest = read_manifest(self.workspace / LAYOUT.checkpoint(attempt, step))
        assert manifest is not None, f"attempt {attempt}, step {step}: no complete checkpoint"
        return manifest


@dataclass
class Pod:
    """One pod of a job's gang: its launcher's process and where it speaks."""

    process: subprocess.Popen[bytes]
    port: int
    termination_file: Path
    log: Path

    def progress(self) -> Progress | None:
        """What `/progress` says, or None before it is served and once it is over."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/progress") as reply:
                return Progress.model_validate_json(reply.read())
        except (urllib.error.URLError, ConnectionError, HTTPException):
            # The last: it ended in the middle of its reply.
            return None

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as reply:
            return str(reply.read().decode())

    def wait_until(self, reached: Callable[[Progress], bool]) -> Progress:
        """Poll `/progress` until it says what is waited for; the pod ending first is an error."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < give_up:
            progress = self.progress()
            if progress is not None and reached(progress):
                return progress
            assert self.process.poll() is None, f"ended too early:\n{self.log.read_text()}"
            time.sleep(0.01)
        raise AssertionError(f"waited in vain:\n{self.log.read_text()}")

    def ranks(self) -> list[int]:
        """Process ids of the ranks that run, in the order of their ranks."""
        children = [pid for pid, parent in running_processes().items() if parent == self.pid]
        return sorted(children, key=rank_of)

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> tuple[int, Termination]:
        """Wait for the end: exit code and termination message."""
        code = self.process.wait(PATIENCE_SECONDS)
        return code, Termination.model_validate_json(self.termination_file.read_bytes())


def rank_of(pid: int) -> int:
    """The rank that a process was started as; the highest of all for one that has just ended."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return sys.maxsize
    return next((int(one[5:]) for one in variables if one.startswith(b"RANK=")), sys.maxsize)


def running_processes() -> dict[int, int]:
    """Every process of the machine with its parent, those aside that have ended."""
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    lines = (line.split() for line in table.splitlines())
    return {int(pid): int(parent) for pid, parent, state in lines if not state.startswith("Z")}


def wait_until_gone(pids: list[int]) -> None:
    """Wait until none of these processes runs any more."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while remaining := running_processes().keys() & set(pids):
        assert time.monotonic() < give_up, f"still running: {sorted(remaining)}"
        time.sleep(0.05)


@contextmanager
def pods(
    job: Job,
    attempt: int,
    *,
    environment: Mapping[str, str] | None = None,
    largest_file: int | None = None,
    gang: Mapping[str, Any] | None = None,
) -> Iterator[list[Pod]]:
    """Run an attempt of a job: a pod per worker. `largest_file` limits what it can write."""
    run = a_run(
        dataset=dict(job.dataset),
        model=job.model,
        step=Step.TRAIN,
        task=job.task,
        training=dict(job.training),
        gang={"workers": job.workers, "ranks_per_worker": job.ranks} | dict(gang or {}),
        lora=job.lora,
    )
    variables = an_environment(job.folder, run)
    rendezvous = free_port()
    with ExitStack() as ending:
        yield [
            ending.enter_context(
                _pod(job, variables, attempt, worker, rendezvous, environment, largest_file)
            )
            for worker in range(job.workers)
        ]


@contextmanager
def _pod(
    job: Job,
    variables: Mapping[str, str],
    attempt: int,
    worker: int,
    rendezvous: int,
    environment: Mapping[str, str] | None,
    largest_file: int | None,
) -> Iterator[Pod]:
    name = f"{attempt}-{worker}"
    termination_file = job.folder / f"termination-{name}.json"
    port = free_port()
    own: dict[str, str] = {
        Env.ATTEMPT: str(attempt),
        Env.WORKER: str(worker),
        Env.POD_UID: f"pod-{name}",
        Env.MASTER_PORT: str(rendezvous),
        Env.LISTEN: f"127.0.0.1:{port}",
        Env.TERMINATION_LOG: str(termination_file),
    }

    def before_start() -> None:
        end_with_parent()
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    log = job.folder / f"log-{name}.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", "train"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **variables, **own, **(environment or {})},
            start_new_session=True,
            # Two system calls between fork and exec, made in the main thread.
            preexec_fn=before_start,  # noqa: PLW1509
        )
    try:
        yield Pod(process, port, termination_file, log)
    finally:
        if process.poll() is None:
            # Its ranks die with it: that is a rule of its own, with a test of its own.
            process.send_signal(signal.SIGKILL)
        process.wait()


def train_to_end(job: Job, attempt: int = 1, **how: Any) -> tuple[int, Termination]:
    """Run an attempt until it ends by itself; worker 0's exit code and message."""
    with pods(job, attempt, **how) as gang:
        ends = [pod.end() for pod in gang]
    return ends[0]
