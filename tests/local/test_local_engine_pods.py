"""A local pod is a supervised process: its account is right, whatever dies."""

from __future__ import annotations

import asyncio
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from finetune_api.job import FineTuneJob
from finetune_api.report import ExitCode, Step
from finetune_api.run import Env, Run
from finetune_api.times import milliseconds_between, parse_time
from finetune_api.usage import EndEvidence
from finetune_operator.core.observed import EngineFacts
from finetune_operator.core.resolve import resolve, run_for
from finetune_operator.cost.pods import Placement, PodView
from finetune_operator.local import gang, podfiles, processes
from finetune_operator.local.podfiles import Launch, Life, Pod
from finetune_operator.local.supervisor import RUN_ENDED
from finetune_operator.local.views import SUPERVISOR_LOST, Orphans, view
from harness.processes import PATIENCE_SECONDS

FACTS = EngineFacts(
    device="cpu",
    max_ranks=4,
    placements=dict.fromkeys(
        Step, Placement(node="here", device="cpu", milli_devices=1000, local=True)
    ),
)

# Children of the scripts below: a rank that would hold its device for an hour.
RANK = "import time; time.sleep(3600)"


def a_run(workers: int = 1) -> Run:
    job = FineTuneJob.model_validate(
        {
            "metadata": {"name": "pods", "uid": "0" * 36},
            "spec": {
                "task": "text-classification",
                "model": {"uri": "model"},
                "dataset": {"train": "rows.csv"},
                "training": {"globalBatchSize": 8},
                "compute": {"workers": workers, "gpusPerWorker": 0},
            },
        }
    )
    return run_for(job, Step.TRAIN, resolve(job, FACTS, smoke=False), None)


class Attempt:
    """One attempt of a scripted trainer, on real supervisors."""

    def __init__(
        self, root: Path, script: str, *, workers: int = 1, grace: int = PATIENCE_SECONDS
    ) -> None:
        self.root = root
        self.folder = root / "train-1"
        self.script = root / "trainer.py"
        self.script.write_text(textwrap.dedent(script))
        self.around = gang.Surroundings(
            job_folder=root,
            claims=root / "claims",
            base=root,
            grace_seconds=grace,
            collective_seconds=60,
            command=(sys.executable, str(self.script)),
        )
        self.orphans = Orphans()
        gang.create(self.folder, a_run(workers), 1, FACTS)

    @property
    def places(self) -> list[Path]:
        return gang.pods_of(self.folder)

    def views(self) -> list[PodView]:
        return [view(place, self.orphans) for place in self.places]

    def view(self) -> PodView:
        return self.views()[0]

    def release(self) -> None:
        async def start_and_wait_for_none() -> None:
            await gang.release(self.folder, Step.TRAIN, self.around)

        asyncio.run(start_and_wait_for_none())

    def life(self) -> Life:
        life = podfiles.read(Life, self.places[0], podfiles.LIFE)
        assert life is not None
        return life

    def says(self, name: str) -> int:
        """Wait for a number that the script writes into a file."""
        path = self.root / name
        eventually(lambda: path.exists() and path.read_text().endswith("\n"))
        return int(path.read_text())

    def processes(self) -> list[int]:
        return [pid for place in self.places for pid in processes_of(place)]

    def end_all(self) -> None:
        for place in self.places:
            pod = podfiles.read(Pod, place, podfiles.POD)
            life = podfiles.read(Life, place, podfiles.LIFE)
            if pod is not None:
                processes.signal_with(Env.POD_UID, pod.uid, signal.SIGKILL)
            if life is not None and life.supervisor_pid and life.supervisor_start:
                processes.signal_process(life.supervisor_pid, life.supervisor_start, signal.SIGKILL)


def processes_of(place: Path) -> list[int]:
    pod = podfiles.read(Pod, place, podfiles.POD)
    assert pod is not None
    return processes.pids_with(Env.POD_UID, pod.uid)


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds; the limit only keeps a broken test from hanging."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < ends, "it did not come to be"
        time.sleep(0.02)


@pytest.fixture
def an_attempt(tmp_path: Path) -> Iterator[Callable[..., Attempt]]:
    made: list[Attempt] = []

    def make(script: str, **options: int) -> Attempt:
        made.append(Attempt(tmp_path, script, **options))
        return made[-1]

    yield make
    for attempt in made:
        attempt.end_all()


def ends(attempt: Attempt) -> PodView:
    eventually(lambda: not attempt.view().live)
    return attempt.view()


def moment(value: datetime | None) -> datetime:
    assert value is not None
    return value


def test_nothing_runs_and_nothing_costs_before_the_release(
    an_attempt: Callable[..., Attempt],
) -> None:
    attempt = an_attempt("open('ran', 'w')", workers=2)
    assert len(attempt.views()) == 2
    for pod in attempt.views():
        assert pod.live
        assert not pod.released
        assert pod.bound_at is None


def test_creating_a_gang_again_changes_nothing(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt("", workers=2)
    before = [pod.uid for pod in attempt.views()]
    gang.create(attempt.folder, a_run(2), 1, FACTS)
    assert [pod.uid for pod in attempt.views()] == before


def test_the_account_of_a_pod_that_ends_by_itself(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt("raise SystemExit(65)")
    attempt.release()
    pod = ends(attempt)
    assert pod.released
    assert pod.exit_code == ExitCode.DATA
    assert pod.end_evidence is EndEvidence.CONTAINERS_TERMINATED
    assert pod.confirmed
    assert pod.disrupted is None
    assert moment(pod.bound_at) <= moment(pod.started_at) <= moment(pod.finished_at)


def test_a_pod_runs_once_however_often_it_is_released(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt(
        """
        import os
        with open(os.environ["FINETUNE_WORKSPACE"] + "/runs", "a") as file:
            file.write("x")
        """
    )
    attempt.release()
    ends(attempt)
    attempt.release()
    again = subprocess.run(
        [sys.executable, "-m", "finetune_operator.local.supervisor", str(attempt.places[0])],
        check=False,
        capture_output=True,
    )
    assert again.returncode == 1
    assert (attempt.root / "runs").read_text() == "x"


def test_the_trainer_is_told_who_it_is(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt(
        """
        import json, os, sys
        from pathlib import Path
        me = {k: v for k, v in os.environ.items() if k.startswith("FINETUNE_")}
        me["step"] = sys.argv[1]
        Path(me["FINETUNE_WORKSPACE"], "me-" + me["FINETUNE_WORKER"]).write_text(json.dumps(me))
        """,
        workers=2,
    )
    attempt.release()
    eventually(lambda: not any(pod.live for pod in attempt.views()))
    import json

    told = [json.loads((attempt.root / f"me-{worker}").read_text()) for worker in (0, 1)]
    for worker, (me, pod) in enumerate(zip(told, attempt.views(), strict=True)):
        assert me["step"] == "train"
        assert me[Env.WORKER] == str(worker)
        assert me[Env.POD_UID] == pod.uid
        assert me[Env.COLLECTIVE_SECONDS] == "60"
        assert Run.model_validate_json(Path(me[Env.RUN_FILE]).read_bytes()) == a_run(2)
    assert told[0][Env.MASTER_PORT] == told[1][Env.MASTER_PORT]
    assert told[0][Env.MASTER_PORT] != told[0][Env.LISTEN].rpartition(":")[2]


SAVES = """
    import os, pathlib, signal, subprocess, sys, time
    here = pathlib.Path(os.environ["FINETUNE_WORKSPACE"])
    def save(number, frame):
        (here / "saved").write_text("work")
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    (here / "pid").write_text(f"{os.getpid()}\\n")
    time.sleep(3600)
    """


def test_a_stop_lets_the_trainer_save(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt(SAVES)
    attempt.release()
    attempt.says("pid")
    gang.stop(attempt.folder, PATIENCE_SECONDS, "Interrupted")
    assert attempt.view().stopping or not attempt.view().live
    pod = ends(attempt)
    assert pod.exit_code == ExitCode.STOPPED
    assert pod.disrupted is None
    assert (attempt.root / "saved").exists()


STUBBORN = """
    import os, pathlib, signal, subprocess, sys, time
    here = pathlib.Path(os.environ["FINETUNE_WORKSPACE"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    rank = subprocess.Popen([sys.executable, "-c", RANK], start_new_session=True)
    (here / "rank").write_text(f"{rank.pid}\\n")
    time.sleep(3600)
    """.replace("RANK", repr(RANK))


def test_past_the_grace_the_whole_pod_is_killed(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt(STUBBORN)
    attempt.release()
    attempt.says("rank")
    gang.stop(attempt.folder, 0.5, "Interrupted")
    pod = ends(attempt)
    assert pod.exit_code == 128 + signal.SIGKILL
    assert attempt.processes() == []


def test_a_second_request_can_shorten_the_grace(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt(STUBBORN)
    attempt.release()
    attempt.says("rank")
    gang.stop(attempt.folder, 3600, "Interrupted")
    eventually(lambda: attempt.life().stopping)
    gang.stop(attempt.folder, 0.2, "Interrupted", sooner=True)
    assert ends(attempt).exit_code == 128 + signal.SIGKILL


def test_a_rank_that_outlives_its_launcher_is_ended_before_the_pod_is_over(
    an_attempt: Callable[..., Attempt],
) -> None:
    attempt = an_attempt(
        """
        import os, pathlib, subprocess, sys
        rank = subprocess.Popen([sys.executable, "-c", RANK], start_new_session=True)
        os._exit(70)
        """.replace("RANK", repr(RANK))
    )
    attempt.release()
    pod = ends(attempt)
    assert pod.exit_code == ExitCode.INTERNAL
    assert attempt.processes() == []


def test_a_pod_that_was_never_released_ends_without_having_held_anything(
    an_attempt: Callable[..., Attempt],
) -> None:
    attempt = an_attempt("open('ran', 'w')")
    gang.stop(attempt.folder, 30, "SuspendedByUser")
    pod = attempt.view()
    assert not pod.live
    assert not pod.released
    assert pod.bound_at is None
    attempt.release()
    assert attempt.view() == pod


def test_a_killed_supervisor_leaves_an_interval_that_ends_with_the_last_proof_of_life(
    an_attempt: Callable[..., Attempt],
) -> None:
    attempt = an_attempt(SAVES)
    attempt.release()
    attempt.says("pid")
    # The launcher may speak before its supervisor has written down that it started it.
    eventually(lambda: attempt.life().started_at is not None)
    life = attempt.life()
    assert life.supervisor_pid is not None
    assert life.supervisor_start is not None
    processes.signal_process(life.supervisor_pid, life.supervisor_start, signal.SIGKILL)
    pod = ends(attempt)
    # The launcher heard of it from the kernel, and saved.
    assert (attempt.root / "saved").exists()
    assert attempt.processes() == []
    assert pod.end_evidence is EndEvidence.LAST_SEEN
    assert not pod.confirmed
    assert pod.disrupted == SUPERVISOR_LOST
    assert moment(pod.finished_at) >= moment(pod.started_at)
    seen = podfiles.last_seen(attempt.places[0])
    assert moment(pod.finished_at) == max(moment(seen), moment(pod.started_at))
    assert attempt.view() == pod


def test_what_a_killed_supervisor_left_behind_is_live_until_it_is_ended(
    an_attempt: Callable[..., Attempt],
) -> None:
    attempt = an_attempt(STUBBORN)
    attempt.release()
    rank = attempt.says("rank")
    life = attempt.life()
    assert life.supervisor_pid is not None
    assert life.supervisor_start is not None
    processes.signal_process(life.supervisor_pid, life.supervisor_start, signal.SIGKILL)
    eventually(lambda: attempt.view().disrupted == SUPERVISOR_LOST)
    assert attempt.view().live
    assert processes.start_time(rank) is not None
    # The grace is over.
    attempt.orphans.kill_at = dict.fromkeys(attempt.orphans.kill_at, time.monotonic())
    ends(attempt)
    assert processes.start_time(rank) is None
    assert attempt.processes() == []


RELEASES = """
import asyncio, sys, time
from pathlib import Path
from finetune_api.report import Step
from finetune_operator.local import gang

root = Path(sys.argv[1])
around = gang.Surroundings(
    job_folder=root, claims=root / "claims", base=root, grace_seconds=600, collective_seconds=60,
    command=(sys.executable, str(root / "trainer.py")),
)
asyncio.run(gang.release(root / "train-1", Step.TRAIN, around))
time.sleep(3600)
"""


def test_when_the_run_is_killed_its_pods_save_and_end_and_say_so(
    an_attempt: Callable[..., Attempt],
) -> None:
    attempt = an_attempt(SAVES)
    run = subprocess.Popen([sys.executable, "-c", RELEASES, str(attempt.root)])
    try:
        attempt.says("pid")
    finally:
        run.kill()
        run.wait()
    pod = ends(attempt)
    assert (attempt.root / "saved").exists()
    assert pod.exit_code == ExitCode.STOPPED
    assert pod.disrupted == RUN_ENDED
    assert pod.confirmed
    assert pod.end_evidence is EndEvidence.CONTAINERS_TERMINATED


def test_a_supervisor_of_a_dead_run_starts_nothing(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt("open('ran', 'w')")
    place = attempt.places[0]
    launch = Launch(command=("true",), environment={}, parent_pid=os.getpid() + 1, grace_seconds=5)
    podfiles.write(launch, place, podfiles.LAUNCH)
    done = subprocess.run(
        [sys.executable, "-m", "finetune_operator.local.supervisor", str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "gone" in done.stderr
    assert not attempt.view().released


def test_a_trainer_that_cannot_be_started_ends_its_pod(
    an_attempt: Callable[..., Attempt],
) -> None:
    attempt = an_attempt("")
    around = gang.Surroundings(
        job_folder=attempt.root,
        claims=attempt.root,
        base=attempt.root,
        grace_seconds=5,
        collective_seconds=60,
        command=(str(attempt.root / "no-such-program"),),
    )
    asyncio.run(gang.release(attempt.folder, Step.TRAIN, around))
    pod = ends(attempt)
    assert pod.exit_code == 126
    assert "no-such-program" in (attempt.places[0] / podfiles.SUPERVISOR_LOG).read_text()


def test_an_archived_attempt_is_looked_at_no_more(an_attempt: Callable[..., Attempt]) -> None:
    attempt = an_attempt("")
    assert list(gang.open_attempts(attempt.root / ".")) != []
    attempts = attempt.root / "attempts"
    attempts.mkdir()
    attempt.folder.rename(attempts / "train-1")
    assert [path.name for path in gang.open_attempts(attempts)] == ["train-1"]
    gang.forget(attempts / "train-1")
    assert list(gang.open_attempts(attempts)) == []


def test_a_process_is_signalled_only_under_its_own_start_time() -> None:
    child = subprocess.Popen([sys.executable, "-c", RANK])
    try:
        start = processes.start_time(child.pid)
        assert start is not None
        assert not processes.signal_process(child.pid, start + 1, signal.SIGKILL)
        assert child.poll() is None
        assert processes.signal_process(child.pid, start, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        assert processes.start_time(child.pid) is None
    finally:
        child.kill()
        child.wait()


def test_a_number_that_is_a_threads_by_now_is_no_process() -> None:
    over, numbers = threading.Event(), queue.SimpleQueue[int]()

    def wait() -> None:
        numbers.put(threading.get_native_id())
        over.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        number = numbers.get()
        start = processes.start_time(number)
        assert start is not None
        assert not processes.signal_process(number, start, signal.SIGKILL)
    finally:
        over.set()
        thread.join()


def test_moments_are_cut_to_the_millisecond_alike_everywhere() -> None:
    text = podfiles.now()
    assert podfiles.format_moment(parse_time(text)) == text
    assert milliseconds_between(parse_time(text), parse_time(podfiles.now())) >= 0
