"""A training that computes nothing: its steps, its checkpoints, and one end for all workers.

Played once for a gang, in place of the ranks' rendezvous. What it saves stays in the job's
workspace, and the next attempt goes on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime

from finetune_api.report import ExitCode, Marks, Progress, Step
from finetune_api.run import LAYOUT, Run, total_steps
from finetune_api.times import format_time
from harness.kubeletprocess import Process
from harness.kubeletscript import Script
from harness.scripted import TRAIN_ROWS

_STUCK_SECONDS = 0.1


@dataclass(frozen=True)
class Checkpoint:
    """A complete one."""

    step: int
    attempt: int
    at: datetime

    @property
    def path(self) -> str:
        """Where it lies in the workspace."""
        return str(LAYOUT.checkpoint(self.attempt, self.step))


@dataclass
class Workspace:
    """What a job's pods leave to later ones."""

    checkpoints: list[Checkpoint] = field(default_factory=list)
    reports: dict[Step, bytes] = field(default_factory=dict)
    gangs: dict[int, TrainingPlay] = field(default_factory=dict)
    """By the attempt's number."""

    def training(self, process: Process, run: Run, script: Script) -> TrainingPlay:
        """The training that a worker takes part in."""
        attempt = process.attempt
        if attempt not in self.gangs:
            self.gangs[attempt] = TrainingPlay(run, attempt, script, self)
        return self.gangs[attempt]


class TrainingPlay:
    """One attempt's training, from the newest complete checkpoint on."""

    def __init__(self, run: Run, attempt: int, script: Script, workspace: Workspace) -> None:
        self.attempt = attempt
        self.total = total_steps(run.training, TRAIN_ROWS)
        self.resumed = max(workspace.checkpoints, key=lambda saved: saved.step, default=None)
        self.step = self.resumed.step if self.resumed else 0
        self._every = run.training.checkpoint_every_steps
        self._script = script
        self._workspace = workspace
        self._wanted = run.gang.workers
        self._members: dict[int, Process] = {}
        self._here = asyncio.Event()
        self._stopping = asyncio.Event()
        self._stepped = asyncio.Condition()
        self._broken = self._hung = False
        self._stage = "loading"
        self._first_at: datetime | None = None
        self._last_at: datetime | None = None
        self._saved = self.resumed
        self._saving_seconds = 0.0
        self._driver = asyncio.ensure_future(self._drive())

    async def take_part(self, process: Process) -> ExitCode:
        """Train as one worker; returns how the whole gang ended.

        A worker that is killed meanwhile leaves, and the gang makes no more steps.
        """
        self._members[process.worker] = process
        if len(self._members) == self._wanted:
            self._here.set()
        heard = asyncio.ensure_future(self._hear(process))
        try:
            return await asyncio.shield(self._driver)
        finally:
            heard.cancel()
            if not self._driver.done():
                self._broken = True
                del self._members[process.worker]
                if not self._members:
                    self._driver.cancel()

    def hang(self) -> None:
        """Make no more steps, and say nothing of it."""
        self._hung = True

    async def reached(self, step: int) -> None:
        """Return once that many steps are made, those of earlier attempts included."""
        async with self._stepped:
            await self._stepped.wait_for(lambda: self.step >= step)

    @property
    def best(self) -> Checkpoint:
        """The checkpoint that training ended with."""
        return self._workspace.checkpoints[-1]

    def marks(self) -> Marks:
        """What rank 0 has seen so far."""
        first = self._members.get(0)
        return Marks(
            started_at=format_time(first.started) if first else None,
            first_step_at=format_time(self._first_at) if self._first_at else None,
            last_step_at=format_time(self._last_at) if self._last_at else None,
            resumed_from_step=self.resumed.step if self.resumed else 0,
            resumed_from_attempt=self.resumed.attempt if self.resumed else None,
            last_step=self.step,
            checkpoint_step=self._saved.step if self._saved else None,
            checkpoint_at=format_time(self._saved.at) if self._saved else None,
            checkpoint_milliseconds=round(1000 * self._saving_seconds),
        )

    def progress(self, pod_uid: str) -> Progress:
        """What rank 0 says at /progress."""
        return Progress(
            pod_uid=pod_uid,
            attempt=self.attempt,
            step=self.step,
            total_steps=self.total,
            loss=0.5,
            seconds_per_step=self._script.step_seconds,
            seconds_per_checkpoint=self._script.save_seconds,
            stage=self._stage,
            marks=self.marks(),
        )

    async def _hear(self, process: Process) -> None:
        """One worker's SIGTERM stops all: the ranks agree on it at the next step."""
        await process.sigterm.wait()
        self._stopping.set()

    async def _drive(self) -> ExitCode:
        await _first_of(self._here, self._stopping)
        going = await self._pause(self._script.init_seconds)
        if going:
            self._first_at = _now()
            self._stage = "training"
        while going and self.step < self.total:
            going = await self._pause(self._script.step_seconds)
            if going:
                await self._make_step()
        return await self._end()

    async def _make_step(self) -> None:
        async with self._stepped:
            self.step += 1
            self._last_at = _now()
            self._stepped.notify_all()
        if self.step % self._every == 0 and self.step < self.total:
            await self._save()

    async def _end(self) -> ExitCode:
        done = self.step == self.total
        if self._broken and not done:
            await asyncio.sleep(self._script.teardown_seconds)
            return ExitCode.INTERNAL
        if not self._hung and self._first_at is not None:
            await self._save()
        return ExitCode.DONE if done else ExitCode.STOPPED

    async def _save(self) -> None:
        if self._saved is not None and self._saved.step == self.step:
            return
        self._stage = "saving"
        await asyncio.sleep(self._script.save_seconds)
        self._saving_seconds += self._script.save_seconds
        if not self._broken:  # what not all ranks have written does not exist
            self._saved = Checkpoint(step=self.step, attempt=self.attempt, at=_now())
            self._workspace.checkpoints.append(self._saved)
        self._stage = "training"

    async def _pause(self, seconds: float) -> bool:
        """Let time pass, for ever while a peer is missing; False once the gang is to stop."""
        stopped = await self._stopped_within(seconds)
        while not stopped and self._is_stuck():
            stopped = await self._stopped_within(_STUCK_SECONDS)
        return not stopped

    async def _stopped_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()

    def _is_stuck(self) -> bool:
        cut_off = not all(process.is_reachable for process in self._members.values())
        return self._hung or self._broken or cut_off


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _now() -> datetime:
    return datetime.now(UTC)
