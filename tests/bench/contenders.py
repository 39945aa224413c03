"""The trainings that are compared, a process each, and how long they take to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from bench.turns import Block
from bench.workloads import Workload
from finetune_api.report import Progress
from finetune_api.run import Env
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.training.place import Place, variables
from harness.processes import free_port

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Rounds:
    """How often each contender has its turn, and how many optimizer steps a turn is."""

    count: int
    block_steps: int

    @property
    def steps(self) -> int:
        """All steps of a contender, the first block included, which is not counted."""
        return (self.count + 1) * self.block_steps


class Contender:
    """The other side: a training that is given turns."""

    def __init__(
        self, name: str, command: list[str], environ: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("wb"),
            env=dict(environ),
            text=True,
        )
        self._started = False

    def turn(self) -> Block:
        """Let it do a block; the first turn is the one that it began with."""
        if self._started:
            self._to.write("go\n")
            self._to.flush()
        self._started = True
        line = self._from.readline()
        if not line:
            raise SystemExit(f"{self.name} ended early:\n{self._log.read_text()[-3000:]}")
        return Block(**json.loads(line))

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def _to(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _from(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def __enter__(self) -> Self:
        """Nothing to do: it runs already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._to.close()
        self._process.kill()
        self._process.wait()


def environ() -> dict[str, str]:
    """What both kinds of contender inherit: one thread, and no word from a hub.

    Sources are compiled once, as in the images: a plain script has next to none of its own.
    """
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def ours(name: str, workload: Workload, rounds: Rounds) -> Contender:
    """Our trainer, as a rank."""
    run = workload.run
    named = workload.environment(run) | {Env.MASTER_PORT.value: str(free_port())}
    environment = RankEnvironment.from_env(named)
    return Contender(
        name,
        ["bench.our_rank", str(rounds.block_steps)],
        variables(Place.of(run.gang, 0, 0), environment, run.gang, environ() | named),
        workload.folder / f"{name}.log",
    )


def plain(workload: Workload, rounds: Rounds) -> Contender:
    """The plain Trainer."""
    return Contender(
        "plain",
        plain_command(workload, rounds.block_steps),
        environ(),
        workload.folder / "plain.log",
    )


def plain_command(workload: Workload, block_steps: int) -> list[str]:
    """The plain Trainer's process, as arguments of ``python -m``."""
    run_file = workload.folder / "plain.json"
    run_file.write_text(workload.run.model_dump_json(by_alias=True))
    return ["bench.plain_trainer", str(workload.folder), str(run_file), str(block_steps)]


def plain_start(workload: Workload) -> Block:
    """What it took until the plain Trainer has done a step."""
    began = time.monotonic()
    command, log = plain_command(workload, 1), workload.folder / "plain.log"
    with Contender("plain", command, environ(), log) as one:
        one.turn()
        return Block(time.monotonic() - began, processor_seconds(one.pid))


def our_start(workload: Workload, attempt: int) -> Block:
    """What it took until `finetune-trainer train` says on /progress that a step is done."""
    port = free_port()
    named = {
        **workload.environment(workload.run),
        Env.ATTEMPT: str(attempt),
        Env.MASTER_PORT: str(free_port()),
        Env.LISTEN: f"127.0.0.1:{port}",
    }
    began = time.monotonic()
    log = workload.folder / "start.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "finetune_trainer", "train"],
        env=environ() | named,
        stdout=subprocess.DEVNULL,
        stderr=log.open("wb"),
    )
    try:
        while step_of(port) < 1:
            if process.poll() is not None:
                raise SystemExit(f"our trainer ended early:\n{log.read_text()[-3000:]}")
            time.sleep(_LOOK_SECONDS)
        return Block(time.monotonic() - began, processor_seconds(process.pid))
    finally:
        process.kill()
        process.wait()


def processor_seconds(pid: int) -> float:
    """Processor time of a process, of those that it started and of theirs, ended or running."""
    proc = Path(f"/proc/{pid}")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    children = (proc / "task" / str(pid) / "children").read_text().split()
    return own + sum(processor_seconds(int(child)) for child in children)


def step_of(port: int) -> int:
    """The step that a trainer has reached; 0 while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress") as reply:
            return Progress.model_validate_json(reply.read()).step
    except (urllib.error.URLError, ConnectionError):
        return 0
