"""A local job comes to its end, and its records to what its pods held, whatever is killed when."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_api.digests import spec_digest
from finetune_api.job import FineTuneJob
from finetune_api.phases import Phase
from finetune_api.report import ExitCode
from finetune_api.run import Env
from finetune_api.status import JobStatus
from finetune_api.times import milliseconds_between, parse_time
from finetune_api.usage import TimeClass, UsageRecord
from finetune_operator.local import gang, machine, podfiles, processes
from finetune_operator.local.drive import drive
from finetune_operator.local.engine import LocalEngine, StorageError
from finetune_operator.local.podfiles import Launch, Life, Pod
from finetune_operator.local.resume import open_state
from finetune_operator.local.workspace import State, Workspace
from harness import localrun
from harness.processes import PATIENCE_SECONDS

STEPS = 60


class Job:
    """A job of the scripted trainer in a workspace of its own, and the runs made of it."""

    def __init__(self, root: Path, *, workers: int = 2) -> None:
        self.root = root
        (root / "model").mkdir()
        (root / "rows.csv").write_text("text,label\n")
        self.manifest = root / "job.json"
        self.hold = root / "hold"
        self.spec: dict[str, object] = {
            "task": "text-classification",
            "model": {"uri": "model"},
            "dataset": {"train": "rows.csv"},
            "training": {"maxSteps": STEPS, "globalBatchSize": 8},
            "compute": {"workers": workers, "gpusPerWorker": 1},
            "checkpoint": {"everySteps": 5},
            "policy": {"gracePeriodSeconds": 120},
        }
        self.workspace = Workspace(root=root / "workspace")
        self.runs: list[subprocess.Popen[str]] = []

    def write(self) -> None:
        self.manifest.write_text(json.dumps({"metadata": {"name": "faults"}, "spec": self.spec}))

    def start(self) -> subprocess.Popen[str]:
        self.write()
        run = subprocess.Popen(
            [sys.executable, localrun.__file__, str(self.manifest), str(self.workspace.root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.runs.append(run)
        return run

    def finish(self) -> int:
        """Run to the end; a traceback anywhere is a failure of its own."""
        run = self.start()
        said, _ = run.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in said, said
        return run.returncode

    def state(self) -> State:
        state = self.workspace.read_state()
        assert state is not None
        return state

    def status(self) -> JobStatus:
        status = self.state().job.status
        assert status is not None
        return status

    def places(self) -> list[Path]:
        if not self.workspace.attempts.exists():
            return []
        return sorted(self.workspace.attempts.glob("*/worker-*"))

    def steps(self) -> list[tuple[int, int]]:
        """Each step that was made: the attempt, and the step."""
        paths = list(self.workspace.root.glob("*/steps"))
        lines = paths[0].read_text().splitlines() if paths else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines if " " in line]

    def start_held(self, step: int) -> subprocess.Popen[str]:
        """Start, and wait until the training is at a step: it goes no further until let go.

        So no speed of the training outruns what a test does to it meanwhile.
        """
        self.hold.write_text(str(step))
        run = self.start()
        eventually(lambda: len(self.steps()) == step or run.poll() is not None)
        assert run.poll() is None, run.communicate()[0]
        return run

    def let_go(self) -> None:
        self.hold.unlink()

    def told(self) -> str:
        """The step that the engine was last told of."""
        return "".join(path.read_text() for path in self.workspace.root.glob("*/told"))

    def forget_told(self) -> None:
        for path in self.workspace.root.glob("*/told"):
            path.unlink()

    def clean(self) -> None:
        for run in self.runs:
            run.kill()
            run.wait()
            if run.stdout is not None:
                run.stdout.close()
        for place in self.places():
            pod = podfiles.read(Pod, place, podfiles.POD)
            life = podfiles.read(Life, place, podfiles.LIFE)
            if pod is not None:
                processes.signal_with(Env.POD_UID, pod.uid, signal.SIGKILL)
            if life is not None and life.supervisor_pid and life.supervisor_start:
                processes.signal_process(life.supervisor_pid, life.supervisor_start, signal.SIGKILL)


@pytest.fixture
def a_job(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    made: list[Job] = []

    def make(**options: int) -> Job:
        made.append(Job(tmp_path, **options))
        return made[-1]

    yield make
    for job in made:
        job.clean()


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds; the limit only keeps a broken test from hanging."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < ends, "it did not come to be"
        time.sleep(0.02)


def assert_books_are_right(job: Job) -> None:
    """Every interval that a pod held is recorded once, to the millisecond, and partitioned."""
    held = {}
    for place in job.places():
        pod = podfiles.read(Pod, place, podfiles.POD)
        life = podfiles.read(Life, place, podfiles.LIFE)
        assert pod is not None
        if life is not None and life.bound_at is not None:
            assert life.finished_at is not None, f"{place} never ended"
            held[pod.uid] = milliseconds_between(
                parse_time(life.bound_at), parse_time(life.finished_at)
            )
        assert processes.pids_with(Env.POD_UID, pod.uid) == []
    recorded: dict[str, int] = {}
    for record in job.workspace.read_records().values():
        assert record.spec.sealed
        assert record.spec.lost_settled
        for entry in record.spec.entries:
            assert entry.until is not None
            length = milliseconds_between(parse_time(entry.since), parse_time(entry.until))
            assert sum(share.milliseconds for share in entry.classes) == length
            recorded[entry.pod_uid] = recorded.get(entry.pod_uid, 0) + length
    assert recorded == held


def lost(record: UsageRecord) -> int:
    shares = [share for entry in record.spec.entries for share in entry.classes]
    return sum(share.milliseconds for share in shares if share.name is TimeClass.LOST)


def assert_complete(job: Job) -> None:
    status = job.status()
    assert status.phase is Phase.COMPLETE, status.message
    numbers = [row.number for row in status.attempts]
    assert numbers == sorted(set(numbers))
    assert {step for _, step in job.steps()} == set(range(1, STEPS + 1))
    assert_books_are_right(job)


def test_a_job_goes_the_whole_way(a_job: Callable[..., Job]) -> None:
    job = a_job()
    assert job.finish() == ExitCode.DONE
    assert_complete(job)
    status = job.status()
    assert [row.step for row in status.attempts] == ["prepare", "train", "evaluate"]
    assert status.resolved is not None
    assert status.resolved.spec_digest == spec_digest(job.state().job)
    assert "phase: Complete" in job.workspace.status_file.read_text()


def test_a_complete_job_run_again_stays_complete(a_job: Callable[..., Job]) -> None:
    job = a_job(workers=1)
    assert job.finish() == ExitCode.DONE
    before = job.status()
    assert job.finish() == ExitCode.DONE
    assert job.status() == before


def test_a_killed_rank_ends_the_gang_and_the_next_attempt_resumes(
    a_job: Callable[..., Job],
) -> None:
    job = a_job()
    run = job.start_held(13)
    # The next look takes the answer in; one more question shows that it has. The first may still
    # tell of an earlier step, and on a busy machine one may come too late to be taken.
    for _ in range(3):
        job.forget_told()
        eventually(lambda: job.told() == "13")
    place = job.workspace.attempts / "train-2" / "worker-0"
    pod = podfiles.read(Pod, place, podfiles.POD)
    assert pod is not None
    assert processes.signal_with(Env.POD_UID, pod.uid, signal.SIGKILL) > 0
    job.let_go()
    said, _ = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == ExitCode.DONE, said
    assert_complete(job)
    failed, resumed = (row for row in job.status().attempts if row.step == "train")
    assert failed.reason == "Unknown"
    assert failed.charged
    assert resumed.marks is not None
    assert resumed.marks.resumed_from_step == 10
    # Three steps were made twice; they are shown as lost.
    record = next(r for r in job.workspace.read_records().values() if r.spec.attempt == 2)
    assert lost(record) > 0


def test_an_interrupt_saves_and_running_again_goes_on(a_job: Callable[..., Job]) -> None:
    job = a_job()
    run = job.start_held(8)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == ExitCode.STOPPED, said
    job.let_go()
    status = job.status()
    assert status.phase is Phase.SUSPENDED
    assert status.reason == "Interrupted"
    assert job.finish() == ExitCode.DONE
    assert_complete(job)
    # Stopped in order, so no step was made twice.
    assert len(job.steps()) == STEPS
    assert job.status().charged_failures == 0


def test_a_second_interrupt_cuts_the_grace_short(a_job: Callable[..., Job]) -> None:
    job = a_job()
    job.spec["policy"] = {"gracePeriodSeconds": 3600}
    stubborn = job.root / "stubborn"
    stubborn.touch()
    run = job.start_held(7)
    run.send_signal(signal.SIGINT)
    eventually(lambda: list(job.workspace.attempts.glob("train-2/*/stop.json")))
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == ExitCode.STOPPED, said
    stubborn.unlink()
    job.let_go()
    assert job.finish() == ExitCode.DONE
    assert_complete(job)


def test_a_workspace_that_is_taken_away_ends_the_run_with_its_reason(
    a_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_operator.local.drive._FIRST_DELAY_SECONDS", 0.01)
    job = a_job()
    job.write()
    manifest = FineTuneJob.model_validate_json(job.manifest.read_bytes())
    with job.workspace.lock():
        state = open_state(job.workspace, manifest, (), job.root, smoke=False)
        engine = LocalEngine(
            workspace=job.workspace,
            state=state,
            facts=machine.facts(manifest),
            tell=lambda _: None,
            trainer=localrun.TRAINER,
        )
        shutil.rmtree(job.workspace.root)
        with pytest.raises(StorageError, match=str(job.workspace.root)):
            asyncio.run(drive(engine, lambda _: None))


def test_a_killed_run_is_taken_up_again(a_job: Callable[..., Job]) -> None:
    job = a_job()
    run = job.start_held(8)
    run.kill()
    run.communicate()
    job.let_go()
    assert job.finish() == ExitCode.DONE
    assert_complete(job)
    assert len(job.steps()) == STEPS
    assert job.status().charged_failures == 0


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_killed_when_the_job_comes_to_the_same_end(
    a_job: Callable[..., Job], seed: int
) -> None:
    """The run, a supervisor or a launcher gets SIGKILL, at any moment, several times over."""
    chance = random.Random(seed)
    job = a_job()
    job.spec["policy"] = {"gracePeriodSeconds": 120, "backoffLimit": 50}
    for _ in range(5):
        run = job.start()
        time.sleep(chance.uniform(0.3, 4.0))
        victim = chance.choice(("run", "supervisor", "launcher"))
        kill_one(job, victim, chance)
        if victim == "run" or chance.random() < 0.5:
            run.kill()
            run.communicate()
        else:
            run.send_signal(signal.SIGINT)
            run.communicate(timeout=PATIENCE_SECONDS)
    assert job.finish() == ExitCode.DONE
    assert_complete(job)


def kill_one(job: Job, victim: str, chance: random.Random) -> None:
    lives = [(place, podfiles.read(Life, place, podfiles.LIFE)) for place in job.places()]
    living = [(place, life) for place, life in lives if life and life.finished_at is None]
    if victim == "run" or not living:
        return
    place, life = chance.choice(living)
    if victim == "supervisor" and life.supervisor_pid and life.supervisor_start:
        processes.signal_process(life.supervisor_pid, life.supervisor_start, signal.SIGKILL)
        return
    pod = podfiles.read(Pod, place, podfiles.POD)
    assert pod is not None
    processes.signal_with(Env.POD_UID, pod.uid, signal.SIGKILL)


def test_a_second_run_in_the_workspace_is_refused_and_the_first_goes_on(
    a_job: Callable[..., Job],
) -> None:
    job = a_job(workers=1)
    first = job.start_held(2)
    second = job.start()
    said, _ = second.communicate(timeout=PATIENCE_SECONDS)
    job.let_go()
    assert second.returncode != 0
    assert f"in use by another run (process {first.pid})" in said
    first.communicate(timeout=PATIENCE_SECONDS)
    assert first.returncode == ExitCode.DONE
    assert_complete(job)


def test_a_report_that_is_not_what_its_digest_says_is_not_believed(
    a_job: Callable[..., Job],
) -> None:
    from finetune_api.report import ReportRef, Step
    from finetune_operator.local.reports import read_report

    job = a_job(workers=1)
    assert job.finish() == ExitCode.DONE
    status = job.status()
    assert status.evaluation is not None
    folder = job.workspace.job_folder(job.state().job.metadata.uid)
    ref = ReportRef(path=status.evaluation.report, digest=status.evaluation.report_digest)
    assert read_report(folder, Step.EVALUATE, ref) is not None
    report = folder / ref.path
    report.write_bytes(report.read_bytes() + b" ")
    assert read_report(folder, Step.EVALUATE, ref) is None


def test_pods_of_one_gang_meet_at_one_address(a_job: Callable[..., Job]) -> None:
    job = a_job(workers=2)
    assert job.finish() == ExitCode.DONE
    folder = job.workspace.attempts / "train-2"
    launches = [podfiles.read(Launch, place, podfiles.LAUNCH) for place in gang.pods_of(folder)]
    assert len({launch.environment[Env.MASTER_PORT] for launch in launches if launch}) == 1


def test_a_job_read_back_is_the_job_written(a_job: Callable[..., Job]) -> None:
    job = a_job(workers=1)
    assert job.finish() == ExitCode.DONE
    state = job.state()
    job.workspace.write_state(state)
    assert job.state() == state
    assert FineTuneJob.model_validate(state.job.wire()) == state.job
