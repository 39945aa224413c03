"""Storage that is slow but gets on is waited for; a rank that hangs is not, amid a save or not."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
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
from harness.processes import PATIENCE_SECONDS, free_port
from harness.training import Job, pods, train_to_end

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
# Python reads `sitecustomize` first of all: rank 0's disk is slow for its first checkpoint. All its
# files together, and none alone, take it longer than ranks wait for each other in a step.
SLOW_DISK = """
import os, time

slow_files = 4

def slowly(handle, sync=os.fsync):
    global slow_files
    if slow_files and "/checkpoints/" in os.readlink(f"/proc/self/fd/{handle}"):
        slow_files -= 1
        time.sleep(4)
    sync(handle)

if os.environ.get("RANK") == "0":
    os.fsync = slowly
"""
STEP_SECONDS = 10
"""How long ranks wait for each other in a step: not as long as the disk takes."""
# Rank 1 is halted in the second save of attempt 1, and rank 0's disk hangs in the one of attempt 2.
HANGS_IN_SAVES = """
import hashlib, os, signal, time

def halting(file, digest, read=hashlib.file_digest):
    if "/checkpoints/1/2/" in file.name:
        os.kill(os.getpid(), signal.SIGSTOP)
    return read(file, digest)

def hanging(handle, sync=os.fsync):
    if "/checkpoints/2/2/" in os.readlink(f"/proc/self/fd/{handle}"):
        time.sleep(3600)
    sync(handle)

if os.environ.get("RANK") == "1":
    hashlib.file_digest = halting
if os.environ.get("RANK") == "0":
    os.fsync = hanging
"""


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


def test_a_rank_that_hangs_in_a_save_is_named_and_the_checkpoint_before_is_gone_on_from(
    prepared_job: Job, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS_IN_SAVES)
    training = TRAINING | {"max_steps": 3, "checkpoint_every_steps": 1}
    job = dataclasses.replace(prepared_job.copied(tmp_path / "job"), ranks=2, training=training)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        Env.COLLECTIVE_SECONDS: str(STEP_SECONDS),
    }
    stack = ""
    for attempt, (hangs, waits, resumed_from) in enumerate([(1, 0, 0), (0, 1, 1)], start=1):
        code, termination = train_to_end(job, attempt, environment=environment)
        failure = termination.failure
        assert failure is not None
        assert failure.failure_class == FailureClass.COLLECTIVE_HANG, failure
        assert (code, failure.rank) == (ExitCode.INTERNAL, hangs)
        assert failure.message.startswith(f"rank {hangs} stalled: rank {waits} waited for it.")
        assert failure.message.endswith(f"did not come along: {hangs}")
        assert termination.marks.resumed_from_step == resumed_from
        stack = failure.traceback
        (checkpoint,) = complete_checkpoints(job.checkpoints)
        assert checkpoint.age == (1, 1)
    # A halted process shows no stack: there it is where it was waited for.
    assert "in hanging" in stack


# Rank 0 works for twice as long as ranks wait, and is halted in a second save.
A_SAVE_OF_TWO = """
import os, signal, sys, time
from datetime import timedelta
import torch
from finetune_trainer.training.gang import process_group
from finetune_trainer.training.place import Place
from finetune_trainer.training.signs import SignsOfWork

def end(failure):
    print(failure.failure_class, failure.message, failure.traceback, flush=True)
    os._exit(0)

rank = int(sys.argv[1])
place = Place(rank=rank, world_size=2, local_rank=rank, local_world_size=2)
signs = SignsOfWork(lambda _: None)
patience = timedelta(seconds=4)
with process_group(place, torch.device("cpu"), step_timeout=patience, end=end) as gang:
    with gang.patiently(signs):
        gang.barrier()
        if rank == 0:
            for _ in range(8):
                time.sleep(1)
                signs.give()
        gang.barrier()
    print("saved", flush=True)
    with gang.patiently(signs):
        gang.barrier()
        if rank == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        gang.barrier()
"""


def test_the_rank_where_ranks_meet_is_waited_for_while_it_works_and_named_when_it_is_halted() -> (
    None
):
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", A_SAVE_OF_TWO, str(rank)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said, _ = ranks[1].communicate(timeout=PATIENCE_SECONDS)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    saved, ended, *stack = said.splitlines()
    assert saved == "saved"
    assert ended.startswith("CollectiveHang nothing of a save got on for 4 s")
    assert "did not come along: 0" in ended
    assert any("in barrier" in line for line in stack)


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
