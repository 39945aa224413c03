"""Pods' folders as the core's views of them; and the end of pods whose supervisor is gone."""

import signal
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from finetune_api.report import TERMINATION_LIMIT_BYTES, Step, Termination
from finetune_api.run import Env
from finetune_api.times import parse_time
from finetune_api.usage import EndEvidence
from finetune_operator.cost.pods import Placement, PodView
from finetune_operator.local import podfiles, processes
from finetune_operator.local.podfiles import Launch, Life, Pod

SUPERVISOR_LOST = "SupervisorLost"
"""The pod's supervisor was killed: how its launcher ended is not known."""


@dataclass
class Orphans:
    """Pods that outlived their supervisor, and when each gets its SIGKILL (monotonic)."""

    kill_at: dict[str, float] = field(default_factory=dict)

    def tend(self, folder: Path, pod: Pod, life: Life) -> Life:
        """Bring an unfinished pod's account up to date.

        While its supervisor lives, it is right as it stands. Otherwise what is left of the pod is
        ended, and the interval closes on the last proof of life: the supervisor's, or that of what
        it left behind.
        """
        with podfiles.locked(folder) as free:
            if not free:
                return life
            # Its end may have been written between the reading and the lock.
            life = podfiles.read(Life, folder, podfiles.LIFE) or life
            if life.finished_at is not None:
                return life
            if processes.pids_with(Env.POD_UID, pod.uid):
                podfiles.touch_alive(folder)
                self._end(folder, pod)
                return replace(life, stopping=True, disrupted=SUPERVISOR_LOST)
            closed = _closed(folder, life)
            podfiles.write(closed, folder, podfiles.LIFE)
            self.kill_at.pop(pod.uid, None)
            return closed

    def _end(self, folder: Path, pod: Pod) -> None:
        """SIGTERM once (the launcher has had the kernel's too), SIGKILL past the grace."""
        if pod.uid not in self.kill_at:
            launch = podfiles.read(Launch, folder, podfiles.LAUNCH)
            grace = launch.grace_seconds if launch else 0.0
            self.kill_at[pod.uid] = time.monotonic() + grace
        elif time.monotonic() >= self.kill_at[pod.uid]:
            processes.signal_with(Env.POD_UID, pod.uid, signal.SIGKILL)


def _closed(folder: Path, life: Life) -> Life:
    seen = podfiles.last_seen(folder)
    moments = [moment for moment in (life.bound_at, life.started_at) if moment is not None]
    if seen is not None:
        moments.append(podfiles.format_moment(seen))
    return replace(
        life,
        finished_at=max(moments),
        confirmed=False,
        disrupted=life.disrupted or SUPERVISOR_LOST,
    )


def view(folder: Path, orphans: Orphans) -> PodView:
    """One pod as it is now."""
    pod = podfiles.read(Pod, folder, podfiles.POD)
    if pod is None:
        raise FileNotFoundError(folder / podfiles.POD)
    life = podfiles.read(Life, folder, podfiles.LIFE)
    if life is not None and life.finished_at is None:
        life = orphans.tend(folder, pod, life)
    if life is None:
        return _view(pod, Life(), released=False)
    asked = (folder / podfiles.STOP).exists()
    view_ = _view(
        pod, replace(life, stopping=life.stopping or asked), released=life.bound_at is not None
    )
    if life.finished_at is None:
        return view_
    return replace(
        view_,
        end_evidence=_evidence(life),
        termination=_termination(folder / podfiles.TERMINATION, view_),
    )


def _view(pod: Pod, life: Life, *, released: bool) -> PodView:
    placement = Placement(
        node=pod.node,
        device=pod.device,
        milli_devices=pod.milli_devices,
        local=True,
        fake_gpu=pod.fake_gpu,
    )
    return PodView(
        uid=pod.uid,
        step=Step(pod.step),
        attempt=pod.attempt,
        worker=pod.worker,
        created_at=parse_time(pod.created_at),
        released=released,
        placement=placement,
        bound_at=_moment(life.bound_at),
        started_at=_moment(life.started_at),
        finished_at=_moment(life.finished_at),
        confirmed=life.confirmed,
        exit_code=life.exit_code,
        disrupted=life.disrupted,
        stopping=life.stopping,
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)


def _evidence(life: Life) -> EndEvidence:
    if life.bound_at is None:
        return EndEvidence.POD_GONE
    return EndEvidence.CONTAINERS_TERMINATED if life.confirmed else EndEvidence.LAST_SEEN


def _termination(path: Path, pod: PodView) -> Termination | None:
    """The message that the pod left; None if there is none, or one that isn't this pod's."""
    try:
        with path.open("rb") as file:
            content = file.read(TERMINATION_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(content) > TERMINATION_LIMIT_BYTES:
        return None
    try:
        message = Termination.model_validate_json(content)
    except ValidationError:
        return None
    is_its = (message.step, message.attempt, message.worker) == (pod.step, pod.attempt, pod.worker)
    return message if is_its else None
