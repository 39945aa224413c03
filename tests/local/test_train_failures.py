"""From the way ranks die to one class, one exit code and the first one that failed."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_api.report import ExitCode, Failure, FailureClass
from finetune_trainer.errors import DataError
from finetune_trainer.reporting.events import Failed
from finetune_trainer.training.failure import failure_of
from finetune_trainer.training.hostmemory import oom_kills
from finetune_trainer.training.obituary import STACK_MARK, pod_end
from finetune_trainer.training.rankprocess import RankEnd
from finetune_trainer.training.stop import STACK_SIGNAL
from harness.processes import free_port


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, which is known by its name."""


@pytest.mark.parametrize(
    ("error", "failure_class", "exit_code", "by_peer"),
    [
        (DataError("rows.csv: empty"), FailureClass.DATA_ERROR, ExitCode.DATA, False),
        (
            OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            FailureClass.DEVICE_OOM,
            ExitCode.DEVICE_OUT_OF_MEMORY,
            False,
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            FailureClass.DEVICE_OOM,
            ExitCode.DEVICE_OUT_OF_MEMORY,
            False,
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
            FailureClass.HOST_OOM,
            ExitCode.INTERNAL,
            False,
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            FailureClass.STORAGE,
            ExitCode.STORAGE,
            False,
        ),
        (OSError(errno.EROFS, "Read-only"), FailureClass.STORAGE, ExitCode.STORAGE, False),
        (OSError(errno.EIO, "I/O error"), FailureClass.STORAGE, ExitCode.STORAGE, False),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
            FailureClass.STORAGE,
            ExitCode.STORAGE,
            False,
        ),
        (
            RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms"),
            FailureClass.COLLECTIVE_HANG,
            ExitCode.INTERNAL,
            False,
        ),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"),
            FailureClass.UNKNOWN,
            ExitCode.INTERNAL,
            True,
        ),
        (ZeroDivisionError("x"), FailureClass.UNKNOWN, ExitCode.INTERNAL, False),
        (FileNotFoundError(errno.ENOENT, "no"), FailureClass.UNKNOWN, ExitCode.INTERNAL, False),
    ],
)
def test_an_error_has_one_meaning(
    error: Exception, failure_class: FailureClass, exit_code: ExitCode, *, by_peer: bool
) -> None:
    failure, code = failure_of(error, 3)
    assert (failure.failure_class, code, failure.by_peer) == (failure_class, exit_code, by_peer)
    assert failure.rank == 3


A_GANG_OF_TWO = """
import os, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from finetune_trainer.training.failure import failure_of

rank, peer = int(sys.argv[1]), sys.argv[2]
# Only the sum may time out: how long two processes take to meet is the machine's affair.
dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=600))
options = dist.AllreduceOptions()
options.timeout = timedelta(seconds=1 if peer == "hangs" else 600)
try:
    dist.barrier()
    if rank == 1:
        if peer == "dies":
            os._exit(1)
        time.sleep(600)
    dist.group.WORLD.allreduce([torch.ones(1)], options).wait()
except RuntimeError as error:
    failure, _ = failure_of(error, rank)
    print(failure.failure_class, failure.by_peer)
"""


@pytest.mark.parametrize(
    ("peer", "meaning"), [("dies", "Unknown True"), ("hangs", "CollectiveHang False")]
)
def test_what_gloo_says_of_a_peer_is_understood(peer: str, meaning: str) -> None:
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", A_GANG_OF_TWO, str(rank), peer],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    )
    try:
        said, _ = first.communicate()
    finally:
        for process in (first, second):
            process.kill()
            process.wait()
    assert said.strip() == meaning


def an_end(
    rank: int,
    returncode: int,
    at: float,
    *,
    by_peer: bool = False,
    told: bool = False,
    **extra: bool,
) -> RankEnd:
    word = Failed(
        at=at,
        exit_code=returncode,
        failure=Failure(
            failure_class=FailureClass.DATA_ERROR,
            message=f"rank {rank} said",
            rank=rank,
            by_peer=by_peer,
        ),
    )
    return RankEnd(
        rank=rank,
        returncode=returncode,
        at=at,
        told=word if told or by_peer else None,
        last_lines="the last line",
        killed_here=extra.get("killed_here", False),
    )


@pytest.mark.parametrize(
    ("ends", "exit_code", "rank"),
    [
        pytest.param([an_end(0, 0, 1.0), an_end(1, 0, 1.1)], 0, None, id="all done"),
        pytest.param([an_end(0, 75, 1.0), an_end(1, 75, 1.1)], 75, None, id="all stopped"),
        pytest.param(
            [an_end(0, 65, 2.0, told=True), an_end(1, 65, 1.0, told=True)], 65, 1, id="earliest"
        ),
        pytest.param(
            [an_end(0, 70, 1.0, by_peer=True), an_end(1, -9, 1.2)], 137, 1, id="echo came first"
        ),
        pytest.param(
            [an_end(0, -9, 1.0, killed_here=True), an_end(1, 70, 2.0)], 70, 1, id="ended by us"
        ),
        pytest.param(
            [an_end(0, -9, 1.0, killed_here=True), an_end(1, 75, 2.0)],
            75,
            None,
            id="stopped before there was anything to save",
        ),
        pytest.param([an_end(0, 75, 0.5), an_end(1, -11, 1.0)], 139, 1, id="a stop is no failure"),
        pytest.param(
            [an_end(0, 70, 1.0, by_peer=True), an_end(1, 70, 1.1, by_peer=True)],
            70,
            0,
            id="the first failed in another pod",
        ),
    ],
)
def test_the_first_failing_rank_speaks_for_the_pod(
    ends: list[RankEnd], exit_code: int, rank: int | None
) -> None:
    end = pod_end(ends, out_of_memory=False)
    assert end.exit_code == exit_code
    assert (end.failure.rank if end.failure else None) == rank


A_STACK = "Step 12\nStack (most recent call first):\n  File read.py, line 9 in wait"


def waited_for(stalled_rank: RankEnd) -> Failure:
    hang = Failure(failure_class=FailureClass.COLLECTIVE_HANG, message="Timed out", rank=0)
    waiting = dataclasses.replace(
        an_end(0, 70, 1.0, told=True), told=Failed(at=1.0, exit_code=70, failure=hang)
    )
    end = pod_end([waiting, stalled_rank], out_of_memory=False)
    assert end.exit_code == 70
    assert end.failure is not None
    return end.failure


def test_a_rank_that_others_waited_for_is_named_with_where_it_was() -> None:
    silent = an_end(1, -9, 6.0, killed_here=True)
    failure = waited_for(dataclasses.replace(silent, last_lines=A_STACK))
    assert (failure.failure_class, failure.rank) == (FailureClass.COLLECTIVE_HANG, 1)
    assert failure.message == "rank 1 stalled: rank 0 waited for it. Timed out"
    assert failure.traceback == A_STACK.removeprefix("Step 12\n")
    assert waited_for(silent).rank == 1


def test_a_rank_that_noticed_the_hang_too_is_not_the_stalled_one() -> None:
    assert waited_for(an_end(1, 70, 1.5, by_peer=True)).rank == 0


def test_a_rank_stuck_in_a_library_says_where_it_is() -> None:
    program = (
        "import faulthandler, time\n"
        "from finetune_trainer.training.stop import STACK_SIGNAL\n"
        "faulthandler.register(STACK_SIGNAL, all_threads=False)\n"
        # In one line, for it may still be saying so when it is asked.
        "print('ready', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as rank:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
        rank.send_signal(STACK_SIGNAL)
        said = rank.stdout.readline(), rank.stdout.readline()
        rank.kill()
    assert said[0].startswith(STACK_MARK)
    assert "line 4 in <module>" in said[1]


@pytest.mark.parametrize(
    ("returncode", "out_of_memory", "failure_class"),
    [
        (-signal.SIGKILL, False, FailureClass.UNKNOWN),
        (-signal.SIGKILL, True, FailureClass.HOST_OOM),
        (-signal.SIGSEGV, True, FailureClass.UNKNOWN),
    ],
)
def test_a_kill_is_out_of_memory_only_where_the_kernel_counted_one(
    returncode: int, *, out_of_memory: bool, failure_class: FailureClass
) -> None:
    end = pod_end([an_end(0, returncode, 1.0)], out_of_memory=out_of_memory)
    assert end.failure is not None
    assert end.failure.failure_class == failure_class
    assert end.failure.traceback == "the last line"


def test_an_aborted_rank_whose_last_words_are_of_a_timeout_hung() -> None:
    words = "Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)"
    ended = RankEnd(
        rank=2,
        returncode=-signal.SIGABRT,
        at=1.0,
        told=None,
        last_lines=words,
        killed_here=False,
    )
    end = pod_end([ended], out_of_memory=False)
    assert end.failure is not None
    assert end.failure.failure_class == FailureClass.COLLECTIVE_HANG
    assert end.exit_code == 128 + signal.SIGABRT


def test_kills_for_memory_are_read_from_the_control_group(tmp_path: Path) -> None:
    assert oom_kills(tmp_path / "missing") == 0
    assert oom_kills() >= 0
