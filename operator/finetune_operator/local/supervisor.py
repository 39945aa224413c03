"""The keeper of one local pod: ``python -m finetune_operator.local.supervisor FOLDER``.

What a kubelet is on a cluster. The engine starts one per pod when the gang is released; it runs the
pod's launcher, writes down from when to when the pod held its devices and how it ended, passes
requests to stop on, and ends the pod by itself when ``finetune run`` is gone. It needs nothing but
the standard library, so that it starts at once and has little to fail on.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune_operator.local import podfiles, processes
from finetune_operator.local.podfiles import Launch, Life, Stop

_TICK_SECONDS = 0.2
_HEARTBEAT_SECONDS = 1.0
_WRITE_PATIENCE_SECONDS = 60.0
_WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
RUN_ENDED = "RunEnded"
"""``finetune run`` itself ended, and the pod with it."""


@dataclass
class _Watch:
    """What the supervisor knows of its pod while it lives."""

    folder: Path
    launch: Launch
    life: Life
    launcher: subprocess.Popen[bytes]
    exit_code: int | None = None
    kill_at: float | None = None
    """Monotonic time of the SIGKILL, once the pod was asked to stop."""
    beat_at: float = field(default_factory=time.monotonic)


def supervise(folder: Path) -> int:
    """Run a pod from its claim to its end; 1 if it was not this process's to run."""
    with podfiles.locked(folder) as free:
        launch = podfiles.read(Launch, folder, podfiles.LAUNCH)
        if not free or launch is None or podfiles.read(Life, folder, podfiles.LIFE) is not None:
            sys.stderr.write("this pod was run before, or is being run\n")
            return 1
        if os.getppid() != launch.parent_pid:
            sys.stderr.write("the run that released this pod is gone: not started\n")
            return 1
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        processes.become_subreaper()
        watch = _start(folder, launch)
        _tend(watch)
        _end_descendants(watch)
        return _write_end(watch)


def _start(folder: Path, launch: Launch) -> _Watch:
    """Start the launcher; the pod counts as holding its devices from just before."""
    podfiles.touch_alive(folder)
    own = os.getpid()
    life = Life(
        bound_at=podfiles.now(), supervisor_pid=own, supervisor_start=processes.start_time(own)
    )
    podfiles.write(life, folder, podfiles.LIFE)

    def before_exec() -> None:
        # A launcher whose supervisor is killed hears of it, saves and ends.
        processes.die_with_parent(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)

    with (folder / podfiles.LOG).open("ab") as log:
        try:
            launcher = subprocess.Popen(
                launch.command,
                env=podfiles.environment_of(launch, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Safe here: this process has one thread.
                preexec_fn=before_exec,  # noqa: PLW1509
            )
        except OSError as error:
            # Who sees the end looks here for the reason, so it comes first.
            sys.stderr.write(f"can't start {launch.command[0]}: {error.strerror}\n")
            finished = replace(life, finished_at=podfiles.now(), exit_code=126)
            podfiles.write(finished, folder, podfiles.LIFE)
            raise SystemExit(1) from error
    life = replace(life, started_at=podfiles.now())
    watch = _Watch(folder=folder, launch=launch, life=life, launcher=launcher)
    _write_life(watch)
    return watch


def _tend(watch: _Watch) -> None:
    """Wait for the launcher's end; stop it when asked to, or when the run is gone."""
    while watch.exit_code is None:
        received = signal.sigtimedwait(_WATCHED, _TICK_SECONDS)
        if received is not None and received.si_signo in {signal.SIGTERM, signal.SIGINT}:
            _stop(watch, _requested_grace(watch), disrupted=None)
        if os.getppid() != watch.launch.parent_pid and not watch.life.stopping:
            _stop(watch, watch.launch.grace_seconds, disrupted=RUN_ENDED)
        if watch.kill_at is not None and time.monotonic() >= watch.kill_at:
            _kill_group(watch)
        _beat(watch)
        _reap(watch)


def _requested_grace(watch: _Watch) -> float:
    stop = podfiles.read(Stop, watch.folder, podfiles.STOP)
    return watch.launch.grace_seconds if stop is None else stop.grace_seconds


def _stop(watch: _Watch, grace_seconds: float, disrupted: str | None) -> None:
    """Ask the launcher once to end; a later request can only bring the SIGKILL nearer."""
    kill_at = time.monotonic() + grace_seconds
    watch.kill_at = kill_at if watch.kill_at is None else min(watch.kill_at, kill_at)
    if watch.life.stopping:
        return
    watch.launcher.send_signal(signal.SIGTERM)
    watch.life = replace(watch.life, stopping=True, disrupted=disrupted)
    _write_life(watch)


def _kill_group(watch: _Watch) -> None:
    with suppress(ProcessLookupError):
        os.killpg(watch.launcher.pid, signal.SIGKILL)


def _end_descendants(watch: _Watch) -> None:
    """Let nothing of the pod outlive its launcher: a rank left behind would hold its device."""
    while True:
        for pid in processes.children(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _reap(watch):
            return
        signal.sigtimedwait({signal.SIGCHLD}, _TICK_SECONDS)
        _beat(watch)


def _reap(watch: _Watch) -> bool:
    """Collect what has ended; whether anything is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == watch.launcher.pid:
            code = os.waitstatus_to_exitcode(status)
            watch.exit_code = code if code >= 0 else 128 - code
            # Popen must not wait for it again.
            watch.launcher.returncode = code


def _beat(watch: _Watch) -> None:
    if time.monotonic() - watch.beat_at >= _HEARTBEAT_SECONDS:
        watch.beat_at = time.monotonic()
        # A disk that refuses costs the proof of life, never the pod.
        with suppress(OSError):
            podfiles.touch_alive(watch.folder)


def _write_life(watch: _Watch) -> bool:
    """Write down how the pod is; a full disk must not leave the launcher without its keeper."""
    try:
        podfiles.write(watch.life, watch.folder, podfiles.LIFE)
    except OSError as error:
        sys.stderr.write(f"{watch.folder / podfiles.LIFE}: {error.strerror}\n")
        return False
    return True


def _write_end(watch: _Watch) -> int:
    """Write down the end, for a while again and again where the disk refuses."""
    bound_at = watch.life.bound_at or ""
    watch.life = replace(
        watch.life,
        # Never before the beginning, also where the clock was set back meanwhile.
        finished_at=max(podfiles.now(), bound_at),
        exit_code=watch.exit_code,
    )
    patience_ends = time.monotonic() + _WRITE_PATIENCE_SECONDS
    while not _write_life(watch):
        if time.monotonic() > patience_ends:
            return 1
        time.sleep(_HEARTBEAT_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(supervise(Path(sys.argv[1])))
