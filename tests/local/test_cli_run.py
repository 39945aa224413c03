"""`finetune run` from manifest to verdict with the real trainer, undisturbed and disturbed.

Real runs take a while, so each is made once and asked many questions: `undisturbed`, `killed_rank`
and `disturbed`, which is interrupted, stopped by its budget, and killed, one after another.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from finetune_api.phases import Phase, Reason
from finetune_api.report import ExitCode, Step
from finetune_api.run import LAYOUT, Env
from finetune_api.status import JobStatus
from finetune_api.times import milliseconds_between, parse_time
from finetune_operator.local import gang, podfiles, processes
from finetune_operator.local.podfiles import Life, Pod
from finetune_operator.local.workspace import Workspace
from harness.processes import PATIENCE_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="local runs need Linux")

PRICE_PER_HOUR = Decimal("0.36")
# Longer than any machine takes to save; the budget below holds it back.
GRACE_SECONDS = 600
# What a gang may run for under the limit below: longer than it takes to start and to save once.
BUDGETED_SECONDS = 60


@dataclass(frozen=True)
class Ended:
    """How one `finetune run` ended."""

    code: int
    said: str
    status: JobStatus


@dataclass
class Place:
    """A manifest with its model and rows, and the workspace of its runs."""

    root: Path
    spec: dict[str, Any]
    runs: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def workspace(self) -> Workspace:
        return Workspace(root=self.root / "workspace")

    def start(self, *options: str) -> subprocess.Popen[str]:
        (self.root / "job.yaml").write_text(yaml.safe_dump(document("FineTuneJob", self.spec)))
        run = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from finetune_operator.cli.main import main; main()",
                *("run", "-f", "job.yaml", "-f", "ratecard.yaml"),
                *("--workspace", "workspace", "--output", "lines"),
                *options,
            ],
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.runs.append(run)
        return run

    def ended(self, run: subprocess.Popen[str]) -> Ended:
        said, _ = run.communicate(timeout=PATIENCE_SECONDS)
        assert "Traceback" not in said, said
        return Ended(code=run.returncode, said=said, status=self.status())

    def run(self, *options: str) -> Ended:
        return self.ended(self.start(*options))

    def status(self) -> JobStatus:
        state = self.workspace.read_state()
        return (state.job.status if state else None) or JobStatus()

    def job_folder(self) -> Path:
        state = self.workspace.read_state()
        assert state is not None
        return self.workspace.job_folder(state.job.metadata.uid)

    def checkpoints(self) -> set[Path]:
        return set(self.workspace.root.glob("*/checkpoints/*/*/COMPLETE"))

    def pods(self) -> list[tuple[Path, Pod, Life | None]]:
        found = []
        for place in self.workspace.attempts.glob("*/worker-*"):
            pod = podfiles.read(Pod, place, podfiles.POD)
            if pod is not None:
                found.append((place, pod, podfiles.read(Life, place, podfiles.LIFE)))
        return found

    def ranks(self, *, rank: int | None = None) -> list[int]:
        """The processes that train, or the one of a rank."""
        uids = [pod.uid for _, pod, _ in self.pods() if pod.step == Step.TRAIN]
        training = {pid for uid in uids for pid in processes.pids_with(Env.POD_UID, uid)}
        numbers = range(2) if rank is None else (rank,)
        return [
            pid for n in numbers for pid in processes.pids_with("RANK", str(n)) if pid in training
        ]

    @contextmanager
    def frozen(self, run: subprocess.Popen[str], *, may_end: bool = False) -> Iterator[list[int]]:
        """Halt the training just past its next checkpoint, so that no speed outruns the test.

        Gives the processes that are halted.
        """
        before = self.checkpoints()
        eventually(run, lambda: self.checkpoints() - before, may_end=may_end)
        ranks = self.ranks()
        assert ranks or may_end
        tell(ranks, signal.SIGSTOP)
        try:
            yield ranks
        finally:
            tell(ranks, signal.SIGCONT)

    def clean(self) -> None:
        for run in self.runs:
            run.kill()
            run.wait()
            if run.stdout is not None:
                run.stdout.close()
        for _, pod, life in self.pods():
            processes.signal_with(Env.POD_UID, pod.uid, signal.SIGKILL)
            if life is not None and life.supervisor_pid and life.supervisor_start:
                processes.signal_process(life.supervisor_pid, life.supervisor_start, signal.SIGKILL)


def document(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "sentences"},
        "spec": spec,
    }


RATES = {
    "currency": "USD",
    "entries": [
        {
            "name": "local",
            "pricePerHour": str(PRICE_PER_HOUR),
            "effectiveFrom": "2026-01-01T00:00:00Z",
            "source": "an example",
        }
    ],
}


@pytest.fixture(scope="session")
def a_place(
    tiny_model: Path, sentences_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Place]]:
    """Make a folder with the manifest of a small job: two ranks, ZeRO 2, no dropout."""
    made: list[Place] = []

    def make(name: str) -> Place:
        root = tmp_path_factory.mktemp(name)
        shutil.copy(sentences_csv, root / "rows.csv")
        (root / "model").symlink_to(tiny_model)
        (root / "ratecard.yaml").write_text(yaml.safe_dump(document("RateCard", RATES)))
        spec: dict[str, Any] = {
            "task": "text-classification",
            "model": {"uri": "model"},
            "dataset": {"train": "rows.csv", "columns": {"id": "id"}},
            "training": {
                "maxSteps": 100,
                "globalBatchSize": 16,
                "maxMicroBatchSize": 8,
                "learningRate": 1.0e-3,
                "maxLength": 32,
                "dropout": 0.0,
                "evalsPerEpoch": 1,
                "seed": 5,
            },
            "deepspeed": {"zeroStage": 2},
            "compute": {"workers": 2, "gpusPerWorker": 1},
            "checkpoint": {"everySteps": 10},
            "evaluation": {"resamples": 200},
            "policy": {"gracePeriodSeconds": GRACE_SECONDS, "ttlSecondsAfterFinished": 0},
        }
        made.append(Place(root=root, spec=spec))
        return made[-1]

    yield make
    for place in made:
        place.clean()


def tell(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def asked_to_stop(pid: int) -> bool:
    """Whether a halted process has a SIGTERM waiting for it; one that is gone needs none."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    (waiting,) = (line.split()[1] for line in lines if line.startswith("ShdPnd:"))
    return bool(int(waiting, 16) & 1 << (signal.SIGTERM - 1))


def eventually(
    run: subprocess.Popen[str], holds: Callable[[], object], *, may_end: bool = False
) -> None:
    """Wait until something holds, while a run goes on; or until its end, if it may end."""
    ends = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        if run.poll() is not None:
            assert may_end, run.communicate()[0]
            return
        assert time.monotonic() < ends, "it did not come to be"
        time.sleep(0.02)


@dataclass(frozen=True)
class Finished:
    """A job that came to its end, and how its last run ended."""

    place: Place
    end: Ended


@pytest.fixture(scope="session")
def undisturbed(a_place: Callable[[str], Place]) -> Finished:
    place = a_place("undisturbed")
    return Finished(place=place, end=place.run())


def log_probabilities(place: Place) -> dict[str, np.ndarray]:
    """Log-probabilities of each test row: logits, but for a constant per row."""
    table = pq.read_table(place.job_folder() / LAYOUT.predictions)
    rows = zip(table["row_id"].to_pylist(), table["probabilities"].to_pylist(), strict=True)
    return {row: np.log(np.asarray(values)) for row, values in rows}


def assert_same_predictions(one: Place, other: Place) -> None:
    left, right = log_probabilities(one), log_probabilities(other)
    assert left.keys() == right.keys()
    widest = max(float(np.abs(left[row] - right[row]).max()) for row in left)
    assert widest < 1e-4, f"logits differ by {widest}"


def assert_records_say_what_was_held(place: Place) -> None:
    """To the millisecond: each pod's interval stands in the records once."""
    held = {
        pod.uid: milliseconds_between(parse_time(life.bound_at), parse_time(life.finished_at))
        for _, pod, life in place.pods()
        if life is not None and life.bound_at is not None and life.finished_at is not None
    }
    recorded: dict[str, int] = {}
    for record in place.workspace.read_records().values():
        assert record.spec.sealed
        for entry in record.spec.entries:
            assert entry.until is not None
            length = milliseconds_between(parse_time(entry.since), parse_time(entry.until))
            assert sum(share.milliseconds for share in entry.classes) == length
            recorded[entry.pod_uid] = recorded.get(entry.pod_uid, 0) + length
    assert recorded == held
    assert not any(processes.pids_with(Env.POD_UID, pod.uid) for _, pod, _ in place.pods())


def test_a_manifest_becomes_a_verdict(undisturbed: Finished) -> None:
    end = undisturbed.end
    assert end.code == ExitCode.DONE, end.said
    assert end.status.phase is Phase.COMPLETE
    assert end.status.evaluation is not None
    assert end.status.evaluation.passed
    assert [row.step for row in end.status.attempts] == list(Step)
    assert (undisturbed.place.job_folder() / LAYOUT.output_model / "model.safetensors").exists()


def test_status_and_records_are_there_to_read(undisturbed: Finished) -> None:
    workspace = undisturbed.place.workspace
    shown = yaml.safe_load(workspace.status_file.read_text())
    assert shown["kind"] == "FineTuneJob"
    assert shown["status"]["phase"] == "Complete"
    assert len(list((workspace.root / "records").glob("*.yaml"))) == len(Step)
    assert_records_say_what_was_held(undisturbed.place)


def test_the_cost_is_what_the_pods_held_at_the_cards_price(undisturbed: Finished) -> None:
    cost = undisturbed.end.status.cost
    assert cost is not None
    milliseconds = sum(
        share.milliseconds
        for record in undisturbed.place.workspace.read_records().values()
        for entry in record.spec.entries
        for share in entry.classes
    )
    due = PRICE_PER_HOUR * milliseconds / 3_600_000
    assert abs(Decimal(cost.spent) - due) < Decimal("0.000001")
    assert not cost.fake_gpu, "the entry local prices the rank itself"


def test_the_page_lies_in_the_workspace_and_can_be_written_anew(undisturbed: Finished) -> None:
    page = undisturbed.place.workspace.page
    assert str(page) in undisturbed.end.said
    assert "sentences" in page.read_text()
    page.unlink()
    command = "from finetune_operator.cli.main import main; main()"
    said = subprocess.run(
        [sys.executable, "-c", command, "report", str(page.parent)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip() == str(page)
    assert page.exists()


def test_a_complete_job_run_again_stays_as_it_is(undisturbed: Finished) -> None:
    """Also where its time after the end is over, and it says so: only a cluster deletes it."""
    again = undisturbed.place.run()
    assert again.code == ExitCode.DONE
    assert again.status == undisturbed.end.status
    assert (undisturbed.place.job_folder() / LAYOUT.output_model).exists()
    for end in (undisturbed.end, again):
        assert "policy.ttlSecondsAfterFinished is a cluster's" in end.said
        assert "TTLExpired" not in end.said


@pytest.fixture(scope="session")
def killed_rank(a_place: Callable[[str], Place]) -> Finished:
    """A job one of whose ranks got SIGKILL in the middle of training."""
    place = a_place("killed-rank")
    run = place.start()
    with place.frozen(run):
        (rank,) = place.ranks(rank=1)
        os.kill(rank, signal.SIGKILL)
    return Finished(place=place, end=place.ended(run))


def test_a_killed_rank_is_an_attempt_that_ends_and_one_that_resumes(
    killed_rank: Finished,
) -> None:
    assert killed_rank.end.code == ExitCode.DONE, killed_rank.end.said
    failed, resumed = (row for row in killed_rank.end.status.attempts if row.step is Step.TRAIN)
    assert failed.reason not in (None, "Completed")
    assert resumed.marks is not None
    assert resumed.marks.resumed_from_step >= 10
    assert resumed.marks.resumed_from_attempt == failed.number
    assert_records_say_what_was_held(killed_rank.place)


def test_a_killed_rank_changes_no_prediction(undisturbed: Finished, killed_rank: Finished) -> None:
    assert_same_predictions(undisturbed.place, killed_rank.place)


@dataclass(frozen=True)
class Disturbed:
    """What happened to one job, one thing after another."""

    place: Place
    beside: Ended
    interrupted: Ended
    other_spec: Ended
    other_rows: Ended
    over_budget: Ended
    limit: Decimal
    last: Ended


@pytest.fixture(scope="session")
def disturbed(a_place: Callable[[str], Place]) -> Disturbed:
    place = a_place("disturbed")
    run = place.start()
    with place.frozen(run) as ranks:
        beside = place.run()
        run.send_signal(signal.SIGINT)
        # Let go before, it might be through with its training when the request arrives.
        eventually(run, lambda: all(map(asked_to_stop, ranks)))
    interrupted = place.ended(run)

    spec = place.spec
    place.spec = {**spec, "training": {**spec["training"], "seed": 6}}
    other_spec = place.run()
    place.spec = spec
    rows = (place.root / "rows.csv").read_bytes()
    (place.root / "rows.csv").write_bytes(rows + b"s400,one more,positive\r\n")
    other_rows = place.run()
    (place.root / "rows.csv").write_bytes(rows)

    cost = interrupted.status.cost
    assert cost is not None
    seconds = GRACE_SECONDS + BUDGETED_SECONDS
    limit = Decimal(cost.spent) + PRICE_PER_HOUR * 2 * seconds / 3600
    place.spec = {**spec, "budget": {"maxCost": f"{limit:.9f}"}}
    run = place.start()
    # On a slow machine the limit may be reached before another checkpoint is.
    with place.frozen(run, may_end=True) as ranks:
        eventually(run, lambda: all(map(asked_to_stop, ranks)), may_end=True)
    over_budget = place.ended(run)

    place.spec = spec
    run = place.start()
    with place.frozen(run):
        run.kill()
    run.communicate()
    return Disturbed(
        place=place,
        beside=beside,
        interrupted=interrupted,
        other_spec=other_spec,
        other_rows=other_rows,
        over_budget=over_budget,
        limit=limit,
        last=place.run(),
    )


def test_a_task_that_a_baseline_solves_stops_before_anything_is_trained(
    a_place: Callable[[str], Place],
) -> None:
    place = a_place("solved")
    gate = [{"name": "accurate", "metric": "accuracy", "min": 0.7}]
    place.spec["evaluation"] = {"resamples": 200, "gate": gate}
    place.spec["policy"] = {"onBaselinePasses": "Stop"}
    end = place.run()
    assert end.code == ExitCode.STOPPED, end.said
    assert (end.status.phase, end.status.reason) == (Phase.SUSPENDED, Reason.BASELINE_PASSES)
    assert "Set policy.onBaselinePasses to Continue" in end.said
    assert [attempt.step for attempt in end.status.attempts] == [Step.PREPARE]
    assert not place.checkpoints()


def test_a_second_run_in_the_workspace_is_refused(disturbed: Disturbed) -> None:
    assert disturbed.beside.code == ExitCode.STORAGE
    assert "in use by another run" in disturbed.beside.said


def test_an_interrupt_saves_and_says_how_to_go_on(disturbed: Disturbed) -> None:
    end = disturbed.interrupted
    assert end.code == ExitCode.STOPPED, end.said
    assert end.status.reason == Reason.INTERRUPTED
    assert "Run the same command again" in end.said
    newest = end.status.attempts[-1]
    assert newest.marks is not None
    # Saved where it stood: nothing of it is lost.
    assert newest.marks.checkpoint_step == newest.marks.last_step


def test_a_changed_spec_is_refused(disturbed: Disturbed) -> None:
    assert disturbed.other_spec.code == ExitCode.USAGE
    assert "spec.training.seed: was 5, is 6" in disturbed.other_spec.said


def test_changed_rows_are_refused(disturbed: Disturbed) -> None:
    assert disturbed.other_rows.code == ExitCode.DATA
    assert "spec.dataset.train" in disturbed.other_rows.said


def test_a_budget_stops_the_job_before_it_is_passed(disturbed: Disturbed) -> None:
    end = disturbed.over_budget
    assert end.code == ExitCode.STOPPED, end.said
    assert end.status.phase is Phase.SUSPENDED
    assert end.status.reason == Reason.BUDGET_EXCEEDED
    assert end.status.cost is not None
    assert Decimal(end.status.cost.spent) <= disturbed.limit


def test_a_job_that_was_stopped_and_killed_comes_to_the_same_end(
    undisturbed: Finished, disturbed: Disturbed
) -> None:
    assert disturbed.last.code == ExitCode.DONE, disturbed.last.said
    assert_same_predictions(undisturbed.place, disturbed.place)


def test_whatever_was_killed_the_records_say_what_was_held(disturbed: Disturbed) -> None:
    assert_records_say_what_was_held(disturbed.place)
    numbers = [row.number for row in disturbed.last.status.attempts]
    assert numbers == sorted(set(numbers))


def test_a_smoke_run_goes_the_whole_way(a_place: Callable[[str], Place]) -> None:
    place = a_place("smoke")
    end = place.run("--smoke", "--quiet")
    assert end.code == ExitCode.DONE, end.said
    assert end.status.resolved is not None
    assert end.status.resolved.smoke
    assert end.status.progress is not None
    assert end.status.progress.total_steps == 20
    # What was asked for, and nothing between.
    assert end.said.startswith("Complete")


def test_a_gate_that_does_not_hold_fails_the_job_and_exports_nothing(
    undisturbed: Finished, a_place: Callable[[str], Place]
) -> None:
    place = a_place("gate")
    place.spec["training"]["maxSteps"] = 1
    place.spec["evaluation"]["gate"] = [{"name": "best", "metric": "accuracy", "min": 1.0}]
    end = place.run()
    assert end.code == 1
    assert end.status.reason == Reason.GATE_FAILED
    assert "best" in end.said
    assert not (place.job_folder() / LAYOUT.output_model).exists()
    assert place.workspace.page.exists()


def test_a_wrong_column_is_a_data_error_in_one_message(a_place: Callable[[str], Place]) -> None:
    place = a_place("wrong-column")
    place.spec["dataset"]["columns"] = {"text": "sentence"}
    end = place.run()
    assert end.code == ExitCode.DATA, end.said
    assert "sentence" in end.said
    assert gang.pods_of(place.workspace.attempt(Step.TRAIN, 2)) == []
