"""What a workspace refuses, and in which words; what a reply of rank 0 must be to count."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from finetune_api.digests import spec_digest
from finetune_api.job import FineTuneJob
from finetune_api.phases import ConditionType, Phase, Reason
from finetune_api.report import Progress
from finetune_api.status import Condition, JobStatus
from finetune_operator.local.podfiles import write_atomic
from finetune_operator.local.resume import SourceChangedError, SpecChangedError, open_state
from finetune_operator.local.sources import SourceMissingError, local_path
from finetune_operator.local.workspace import State, Workspace, WorkspaceError
from finetune_operator.trainerport import pull_progress


def a_job(*, name: str = "reviews", **spec: Any) -> FineTuneJob:
    return FineTuneJob.model_validate(
        {
            "metadata": {"name": name},
            "spec": {
                "task": "text-classification",
                "model": {"uri": "model"},
                "dataset": {"train": "rows.csv"},
                **spec,
            },
        }
    )


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A manifest's folder, with a model and rows beside it."""
    folder = tmp_path / "base"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "rows.csv").write_text("text,label\nfine,good\n")
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    made = Workspace(root=tmp_path / "workspace")
    with made.lock():
        yield made


def admit(workspace: Workspace, state: State, phase: Phase = Phase.TRAINING) -> None:
    """Let the job be one that has begun."""
    condition = Condition(
        type=ConditionType.ADMITTED,
        status="True",
        reason=Reason.ADMITTED,
        last_transition_time="2026-01-01T00:00:00Z",
    )
    status = JobStatus(phase=phase, conditions=(condition,))
    job = state.job.model_copy(update={"status": status})
    workspace.write_state(state.model_copy(update={"job": job}))


@pytest.fixture
def begun(workspace: Workspace, base: Path) -> State:
    state = open_state(workspace, a_job(), (), base, smoke=False)
    admit(workspace, state)
    return state


def test_a_new_job_gets_a_uid_and_no_status(workspace: Workspace, base: Path) -> None:
    state = open_state(workspace, a_job(), (), base, smoke=False)
    assert len(state.job.metadata.uid) == 36
    assert state.job.status is None
    assert workspace.read_state() == state


def test_a_job_that_has_begun_keeps_its_uid(workspace: Workspace, base: Path, begun: State) -> None:
    again = open_state(workspace, a_job(), (), base, smoke=False)
    assert again.job.metadata == begun.job.metadata


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"training": {"seed": 1}}, "spec.training.seed: was 42, is 1"),
        ({"deepspeed": {"zeroStage": 3}}, "spec.deepspeed.zeroStage: was unset, is 3"),
        ({"training": {"epochs": 2}}, "spec.training.epochs: was unset, is 2.0"),
        ({"dataset": {"train": "other.csv"}}, "spec.dataset.train: was rows.csv, is other.csv"),
    ],
)
def test_a_changed_spec_is_refused_with_what_changed(
    workspace: Workspace, base: Path, begun: State, changed: dict[str, Any], where: str
) -> None:
    with pytest.raises(SpecChangedError) as refusal:
        open_state(workspace, a_job(**changed), (), base, smoke=False)
    assert where in str(refusal.value)
    assert "--workspace" in str(refusal.value)


@pytest.mark.parametrize(
    "allowed",
    [
        {"budget": {"maxCost": "5"}},
        {"policy": {"backoffLimit": 7}},
        {"suspend": True},
        {"compute": {"workers": 2}},
        {"training": {"seed": 42}},
    ],
)
def test_what_may_change_may_change_and_is_taken(
    workspace: Workspace, base: Path, begun: State, allowed: dict[str, Any]
) -> None:
    job = a_job(**allowed)
    again = open_state(workspace, job, (), base, smoke=False)
    assert again.job.spec == job.spec
    assert again.job.metadata.generation == 1 + (job.spec != a_job().spec)
    assert spec_digest(again.job) == spec_digest(begun.job)


def test_a_job_that_was_never_admitted_may_change_in_all(workspace: Workspace, base: Path) -> None:
    open_state(workspace, a_job(), (), base, smoke=False)
    job = a_job(name="other", training={"seed": 1})
    assert open_state(workspace, job, (), base, smoke=False).job.spec == job.spec


def test_a_workspace_of_another_job_is_refused(
    workspace: Workspace, base: Path, begun: State
) -> None:
    with pytest.raises(SpecChangedError, match="belongs to job reviews, not letters"):
        open_state(workspace, a_job(name="letters"), (), base, smoke=False)


def test_a_smoke_run_is_not_taken_up_as_a_whole_one(
    workspace: Workspace, base: Path, begun: State
) -> None:
    with pytest.raises(SpecChangedError, match="without --smoke"):
        open_state(workspace, a_job(), (), base, smoke=True)


def test_changed_rows_are_refused(workspace: Workspace, base: Path, begun: State) -> None:
    (base / "rows.csv").write_text("text,label\nfine,bad\n")
    with pytest.raises(SourceChangedError, match=r"spec\.dataset\.train: .*rows\.csv is not what"):
        open_state(workspace, a_job(), (), base, smoke=False)


def test_a_changed_model_is_refused(workspace: Workspace, base: Path, begun: State) -> None:
    (base / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(SourceChangedError, match=r"spec\.model\.uri"):
        open_state(workspace, a_job(), (), base, smoke=False)


def test_rows_that_were_only_touched_are_the_same(
    workspace: Workspace, base: Path, begun: State
) -> None:
    os.utime(base / "rows.csv", (1, 1))
    open_state(workspace, a_job(), (), base, smoke=False)


def test_a_finished_job_is_shown_whatever_became_of_its_sources(
    workspace: Workspace, base: Path, begun: State
) -> None:
    admit(workspace, begun, Phase.COMPLETE)
    (base / "rows.csv").unlink()
    again = open_state(workspace, a_job(), (), base, smoke=False)
    assert again.job.metadata.uid == begun.job.metadata.uid


def test_every_missing_source_is_named_with_its_field(workspace: Workspace, base: Path) -> None:
    (base / "rows.csv").unlink()
    job = a_job(model={"uri": "pvc://models/minilm"})
    with pytest.raises(SourceMissingError) as refusal:
        open_state(workspace, job, (), base, smoke=False)
    assert "spec.dataset.train: " in str(refusal.value)
    assert f"relative paths start at {base}" in str(refusal.value)
    assert f"{workspace.claims}/models/minilm" in str(refusal.value)


def test_a_claim_is_a_folder_of_the_workspace(workspace: Workspace, base: Path) -> None:
    (workspace.claims / "data").symlink_to(base)
    path = local_path("pvc://data/rows.csv", base, workspace.claims)
    assert path is not None
    assert path.read_text().startswith("text,label")
    assert local_path("https://example.com/rows.csv", base, workspace.claims) is None
    assert local_path("s3://bucket/rows.csv", base, workspace.claims) is None


def test_a_second_run_is_refused_with_the_process_that_works_there(workspace: Workspace) -> None:
    with (
        pytest.raises(WorkspaceError, match=rf"in use by another run \(process {os.getpid()}\)"),
        Workspace(root=workspace.root).lock(),
    ):
        pass


def test_the_lock_is_free_once_the_run_is_over(tmp_path: Path) -> None:
    for _ in range(2):
        with Workspace(root=tmp_path).lock():
            pass


def test_a_file_is_no_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere-file")
    for root in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "link"):
        with pytest.raises(WorkspaceError, match="file"), Workspace(root=root).lock():
            pass


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts small memory disks; skips where this user may not."""
    mounts: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounts)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this user may not mount a disk")
        mounts.append(folder)
        return folder

    yield mount
    for folder in mounts:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [("size=1m", "its disk is full"), ("size=200m,ro", "its disk is read-only")],
)
def test_a_disk_that_cannot_be_worked_on_is_refused_before_anything_runs(
    mounted: Callable[[str], Path], options: str, words: str
) -> None:
    folder = mounted(options)
    with pytest.raises(WorkspaceError) as refusal, Workspace(root=folder / "run").lock():
        pass
    assert words in str(refusal.value)
    assert "--workspace" in str(refusal.value)


def test_a_write_that_fails_leaves_what_was_there(mounted: Callable[[str], Path]) -> None:
    folder = mounted("size=64k")
    write_atomic(folder / "state.json", b"first")
    with pytest.raises(OSError, match="No space left"):
        write_atomic(folder / "state.json", b"x" * 1_000_000)
    assert (folder / "state.json").read_bytes() == b"first"
    assert [path.name for path in folder.iterdir()] == ["state.json"]


def test_a_damaged_state_is_refused_in_one_message(workspace: Workspace) -> None:
    (workspace.root / "state.json").write_text('{"job": 3}')
    with pytest.raises(WorkspaceError, match=r"state\.json"):
        workspace.read_state()


@pytest.mark.parametrize("content", ["a: [", "- a", "a: 1", ""])
def test_a_damaged_record_is_refused_in_one_message(workspace: Workspace, content: str) -> None:
    (workspace.root / "records" / "one.yaml").write_text(content)
    with pytest.raises(WorkspaceError, match=r"one\.yaml: not the usage record.*--workspace$"):
        workspace.read_records()


def test_files_of_a_source_may_have_any_name(workspace: Workspace, base: Path) -> None:
    odd = base / "model" / os.fsdecode(b"w\xff")
    before = open_state(workspace, a_job(), (), base, smoke=False).sources["spec.model.uri"]
    odd.write_text("")
    after = open_state(workspace, a_job(), (), base, smoke=False).sources["spec.model.uri"]
    assert after.digest != before.digest


def test_a_state_of_a_newer_version_can_be_read(workspace: Workspace, begun: State) -> None:
    path = workspace.root / "state.json"
    path.write_text(path.read_text().replace('"smoke"', '"tomorrow": 1,\n "smoke"', 1))
    state = workspace.read_state()
    assert state is not None
    assert state.job.metadata == begun.job.metadata


PROGRESS = Progress(pod_uid="pod-1", attempt=2, step=3, total_steps=10)


@pytest.fixture
def rank_zero() -> Iterator[Callable[[bytes, int], str]]:
    """A server that answers with the given bytes and status; gives its address."""
    servers: list[ThreadingHTTPServer] = []

    def serve(body: bytes, status: int = 200) -> str:
        class Reply(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Reply)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_reply_of_rank_zero_is_taken(rank_zero: Callable[..., str]) -> None:
    address = rank_zero(PROGRESS.model_dump_json(by_alias=True).encode())
    # A pull waits for a second only, and a busy machine may be slower than that.
    pulls = (asyncio.run(pull_progress(address, "pod-1", 2)) for _ in range(60))
    assert next((progress for progress in pulls if progress is not None), None) == PROGRESS


@pytest.mark.parametrize(
    ("body", "status", "pod", "attempt"),
    [
        (PROGRESS.model_dump_json(by_alias=True).encode(), 200, "another", 2),
        (PROGRESS.model_dump_json(by_alias=True).encode(), 200, "pod-1", 3),
        (PROGRESS.model_dump_json(by_alias=True).encode(), 500, "pod-1", 2),
        (b"no json", 200, "pod-1", 2),
        (b"{}", 200, "pod-1", 2),
        (PROGRESS.model_dump_json(by_alias=True).encode() + b" " * 100_000, 200, "pod-1", 2),
    ],
)
def test_a_reply_that_is_not_the_pods_own_is_none(
    rank_zero: Callable[..., str], body: bytes, status: int, pod: str, attempt: int
) -> None:
    assert asyncio.run(pull_progress(rank_zero(body, status), pod, attempt)) is None


def test_a_rank_that_does_not_answer_is_none() -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert asyncio.run(pull_progress(address, "pod-1", 2)) is None
    assert asyncio.run(pull_progress(address, "pod-1", 2)) is None
