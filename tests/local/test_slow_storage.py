"""Storage that is slow but gets on is waited for; a rank that hangs in a step is not."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from finetune_api.report import ExitCode, FailureClass
from finetune_api.run import LAYOUT, Env
from finetune_trainer.reporting.events import Event, Working
from finetune_trainer.reporting.progress import ProgressLog
from finetune_trainer.training.manifest import complete_checkpoints
from finetune_trainer.training.signs import SignsOfWork
from harness.training import Job, pods

# So many steps to an epoch, at whose end it is saved, that a rank which is halted soon after a save
# is amid steps.
TRAINING: dict[str, Any] = {
    "epochs": None,
    "max_steps": 1000,
    "global_batch_size": 2,
    "micro_batch_size": 1,
    "accumulation_steps": 1,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 1000,
}
# Python reads `sitecustomize` first of all: rank 0's disk is slow for its first checkpoint.
SLOW_DISK = """
import os, time

def slowly(handle, sync=os.fsync):
    if "/checkpoints/" in os.readlink(f"/proc/self/fd/{handle}"):
        os.fsync = sync
        time.sleep(14)
    sync(handle)

if os.environ.get("RANK") == "0":
    os.fsync = slowly
"""
STEP_SECONDS = 10
"""How long ranks wait for each other in a step: not as long as the disk takes."""


def test_ranks_wait_for_a_slow_disk_but_not_for_a_rank_that_hangs_in_a_step(
    prepared_job: Job, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK)
    job = dataclasses.replace(prepared_job.copied(tmp_path / "job"), ranks=2, training=TRAINING)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        Env.GRACE_SECONDS: "12",
        Env.COLLECTIVE_SECONDS: str(STEP_SECONDS),
    }
    with pods(job, 1, environment=environment) as (pod,):
        told = pod.wait_until(
            lambda progress: (
                progress.step > (progress.marks.checkpoint_step or progress.total_steps)
            )
        )
        os.kill(pod.ranks()[1], signal.SIGSTOP)
        code, termination = pod.end()
    assert code == ExitCode.INTERNAL, pod.log.read_text()
    failure = termination.failure
    assert failure is not None
    assert (failure.failure_class, failure.rank) == (FailureClass.COLLECTIVE_HANG, 1)
    assert failure.message.startswith("rank 1 stalled: rank 0 waited for it.")
    assert complete_checkpoints(job.workspace / LAYOUT.checkpoints)
    (warning,) = told.warnings
    assert re.match(r"SlowStorage: the checkpoint of step \d+ took ", warning)
    assert "leaves 12 s" in warning


class Heard:
    """Takes what is said, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.anything = threading.Event()

    def hear(self, event: Event) -> None:
        self.events.append(event)
        self.anything.set()


def test_what_grows_on_the_disk_is_a_sign_of_work(tmp_path: Path) -> None:
    heard = Heard()
    with SignsOfWork(heard.hear, seconds=0.01).while_it_grows(tmp_path):
        for number in range(1, 1000):
            (tmp_path / "part").write_bytes(bytes(number))
            if heard.anything.wait(0.05):
                break
    assert {type(event) for event in heard.events} == {Working}


def test_a_disk_that_hangs_gives_no_sign(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"as before")
    heard = Heard()
    with SignsOfWork(heard.hear, seconds=0.01).while_it_grows(tmp_path):
        assert not heard.anything.wait(0.3)


@pytest.mark.parametrize(("seconds", "said"), [(0.0, 100), (3600.0, 0)])
def test_signs_are_given_now_and_then(seconds: float, said: int) -> None:
    heard = Heard()
    signs = SignsOfWork(heard.hear, seconds=seconds)
    for _ in range(100):
        signs.give()
    assert len(heard.events) == said


def test_a_sign_is_a_mark_of_the_attempt() -> None:
    log = ProgressLog(pod_uid="pod", attempt=1, started_at="2026-03-02T08:00:00Z")
    log.apply(Working(at="2026-03-02T09:00:00Z"))
    assert log.marks.working_at == "2026-03-02T09:00:00Z"
