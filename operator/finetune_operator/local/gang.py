"""The gang on one machine: pods as folders, their release as supervisors, their end as requests.

Every function is idempotent; the engine calls them in a thread of its own or awaits them.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from finetune_api.report import Step
from finetune_api.run import Env, Gang, Run
from finetune_operator.core.observed import EngineFacts
from finetune_operator.local import machine, podfiles, processes
from finetune_operator.local.podfiles import Launch, Life, Pod, Stop

RUN_FILE = "run.json"
ARCHIVED = "archived"
"""Marks an attempt whose record is sealed: it is no longer looked at."""
_LOOPBACK = "127.0.0.1"
_CLAIM_SECONDS = 30.0


class NotReleasedError(Exception):
    """A supervisor did not take its pod over; the message carries what it said."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every pod of a job has in common."""

    job_folder: Path
    claims: Path
    base: Path
    grace_seconds: int
    collective_seconds: int
    command: tuple[str, ...]
    """The trainer, without the name of the step."""


def create(folder: Path, run: Run, attempt: int, facts: EngineFacts) -> None:
    """Write down an attempt's run and its gated pods: all of them, or none."""
    if folder.exists():
        return
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    podfiles.write_atomic(beside / RUN_FILE, run.model_dump_json(by_alias=True, indent=1).encode())
    for worker in range(run.gang.workers):
        place = beside / f"worker-{worker}"
        place.mkdir()
        podfiles.write(_pod(run, attempt, worker, facts), place, podfiles.POD)
    beside.rename(folder)
    podfiles.sync_folder(folder.parent)


def _pod(run: Run, attempt: int, worker: int, facts: EngineFacts) -> Pod:
    placement = facts.placements.get(run.step)
    on_device = run.gang.device == "cuda" and placement is not None
    return Pod(
        uid=str(uuid.uuid4()),
        step=run.step,
        attempt=attempt,
        worker=worker,
        created_at=podfiles.now(),
        node=placement.node if placement else "localhost",
        device=placement.device if on_device and placement else "cpu",
        milli_devices=1000 * run.gang.ranks_per_worker,
        fake_gpu=placement.fake_gpu if placement else False,
    )


async def release(folder: Path, step: Step, around: Surroundings) -> list[subprocess.Popen[bytes]]:
    """Start a supervisor for each pod that none has taken over yet, and see that it does.

    Raises
    ------
    NotReleasedError
        If one doesn't; those that did run on, and the core ends them as it ends any gang.
    """
    run = Run.model_validate_json((folder / RUN_FILE).read_bytes())
    ports = _ports(folder)
    started = []
    for place in pods_of(folder):
        pod = podfiles.read(Pod, place, podfiles.POD)
        if pod is None or podfiles.read(Life, place, podfiles.LIFE) is not None:
            continue
        launch = Launch(
            command=(*around.command, str(step)),
            environment=_environment(place, run.gang, pod, ports, around),
            parent_pid=os.getpid(),
            grace_seconds=around.grace_seconds,
        )
        podfiles.write(launch, place, podfiles.LAUNCH)
        started.append((place, _supervise(place)))
    for place, supervisor in started:
        await _taken_over(place, supervisor)
    return [supervisor for _, supervisor in started]


def _supervise(place: Path) -> subprocess.Popen[bytes]:
    with (place / podfiles.SUPERVISOR_LOG).open("ab") as log:
        # Not asyncio's: that kills its children when the loop ends, and these must save first.
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_operator.local.supervisor", str(place)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A Ctrl-C in the terminal is for the run, which then stops its pods in order.
            start_new_session=True,
        )


async def _taken_over(place: Path, supervisor: subprocess.Popen[bytes]) -> None:
    waited = 0.0
    while podfiles.read(Life, place, podfiles.LIFE) is None:
        if supervisor.poll() is not None or waited > _CLAIM_SECONDS:
            said = (place / podfiles.SUPERVISOR_LOG).read_text(errors="replace")[-500:].strip()
            raise NotReleasedError(f"{place}: its supervisor did not start it: {said or 'silent'}")
        await asyncio.sleep(0.02)
        waited += 0.02


def _environment(
    place: Path, gang: Gang, pod: Pod, ports: tuple[int, ...], around: Surroundings
) -> dict[str, str]:
    environment: dict[str, str] = {
        Env.RUN_FILE: str(place.parent / RUN_FILE),
        Env.WORKSPACE: str(around.job_folder),
        Env.CLAIMS: str(around.claims),
        Env.BASE: str(around.base),
        Env.ATTEMPT: str(pod.attempt),
        Env.WORKER: str(pod.worker),
        Env.POD_UID: pod.uid,
        Env.MASTER_ADDR: _LOOPBACK,
        Env.MASTER_PORT: str(ports[0]),
        Env.LISTEN: f"{_LOOPBACK}:{ports[1]}",
        Env.TERMINATION_LOG: str(place / podfiles.TERMINATION),
        Env.GRACE_SECONDS: str(around.grace_seconds),
        Env.COLLECTIVE_SECONDS: str(around.collective_seconds),
        "PYTHONUNBUFFERED": "1",
    }
    ranks = gang.ranks_per_worker
    if gang.device == "cuda":
        devices = machine.visible_devices(pod.worker * ranks, ranks)
        environment["CUDA_VISIBLE_DEVICES"] = devices
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, machine.cores() // gang.world_size))
    return environment


def _ports(folder: Path) -> tuple[int, ...]:
    """Ports of the rendezvous and of /progress: those of pods that already run, or free ones."""
    for place in pods_of(folder):
        launch = podfiles.read(Launch, place, podfiles.LAUNCH)
        if launch is not None and podfiles.read(Life, place, podfiles.LIFE) is not None:
            listen = launch.environment[Env.LISTEN].rpartition(":")[2]
            return int(launch.environment[Env.MASTER_PORT]), int(listen)
    return _free_ports(2)


def _free_ports(count: int) -> tuple[int, ...]:
    """Ports that nothing listens on now; all held at once, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind((_LOOPBACK, 0))
        return tuple(int(listener.getsockname()[1]) for listener in sockets)
    finally:
        for listener in sockets:
            listener.close()


def stop(folder: Path, grace_seconds: float, reason: str, *, sooner: bool = False) -> None:
    """Ask every live pod of an attempt to end; one that never ran is over at once.

    A pod that was asked before is asked again only to end ``sooner``.
    """
    for place in pods_of(folder):
        life = podfiles.read(Life, place, podfiles.LIFE)
        if life is None:
            life = _cancel(place)
        if life is None or life.finished_at is not None:
            continue
        asked = podfiles.read(Stop, place, podfiles.STOP)
        if asked is None or (sooner and asked.grace_seconds > grace_seconds):
            request = Stop(reason=reason, requested_at=podfiles.now(), grace_seconds=grace_seconds)
            podfiles.write(request, place, podfiles.STOP)
        elif life.stopping:
            continue
        if life.supervisor_pid is not None and life.supervisor_start is not None:
            processes.signal_process(life.supervisor_pid, life.supervisor_start, signal.SIGTERM)


def _cancel(place: Path) -> Life | None:
    """End a pod that no supervisor has taken over; None if one is just doing so."""
    with podfiles.locked(place) as free:
        if not free:
            return podfiles.read(Life, place, podfiles.LIFE)
        life = podfiles.read(Life, place, podfiles.LIFE)
        if life is None:
            life = Life(finished_at=podfiles.now(), stopping=True)
            podfiles.write(life, place, podfiles.LIFE)
        return life


def forget(folder: Path) -> None:
    """Keep an attempt's files for people, and look at them no more."""
    if folder.exists():
        podfiles.write_atomic(folder / ARCHIVED, b"")


def pods_of(folder: Path) -> list[Path]:
    """The folders of an attempt's pods, in the order of their workers."""
    return sorted(folder.glob("worker-*"), key=lambda path: int(path.name.partition("-")[2]))


def open_attempts(attempts: Path) -> Iterable[Path]:
    """The attempts that are still looked at."""
    for folder in sorted(attempts.iterdir()):
        if not folder.name.startswith(".") and not (folder / ARCHIVED).exists():
            yield folder
