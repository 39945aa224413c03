"""What the command line says to bad input: one message with its place and fix, and an exit code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from finetune_api.architectures import TESTED
from finetune_api.phases import Phase, Reason
from finetune_api.report import ExitCode, FailureClass, Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_api.tasks import Task
from finetune_operator.cli.main import main
from finetune_operator.cli.run import FAILED, exit_code
from finetune_operator.local.workspace import Workspace


@dataclass(frozen=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


def _main_and_exit() -> None:
    main()
    sys.exit(0)


@pytest.fixture
def finetune(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process; anything that is no exit is a traceback."""

    def call(*arguments: str | Path) -> Said:
        monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            _main_and_exit()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code=code if isinstance(code, int) else 0, out=said.out, err=said.err)

    return call


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a manifest with a model and rows beside it; blocks are given by wire names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.csv").write_text("text,label\nfine,good\n")

    def write(**spec: object) -> Path:
        path = tmp_path / "job.yaml"
        job = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "reviews"},
            "spec": {
                "task": "text-classification",
                "model": {"uri": "model"},
                "dataset": {"train": "rows.csv"},
                **spec,
            },
        }
        path.write_text(yaml.safe_dump(job))
        return path

    return write


def test_a_valid_manifest_is_said_to_be_one(
    finetune: Command, manifest: Callable[..., Path]
) -> None:
    said = finetune("validate", "-f", manifest())
    assert (said.code, said.err) == (0, "")
    assert "reviews: valid" in said.out


BAD_SPECS = [
    ({"trainig": {}}, ("spec.trainig",)),
    ({"training": {"epochs": "many"}}, ("spec.training.epochs",)),
    ({"training": {"learningRate": 7}}, ("spec.training.learningRate",)),
    (
        {"training": {"globalBatchSize": 10}, "compute": {"workers": 3}},
        ("globalBatchSize", "multiple"),
    ),
    ({"training": {"epochs": 1, "maxSteps": 5}}, ("epochs", "maxSteps")),
    ({"dataset": {"train": "ftp://host/rows.csv"}}, ("dataset.train", "s3://")),
    ({"dataset": {"train": "rows.csv", "labels": ["one"]}}, ("spec.dataset.labels", "two")),
]


@pytest.mark.parametrize(("spec", "words"), BAD_SPECS)
@pytest.mark.parametrize("command", ["validate", "run"])
def test_a_bad_manifest_is_refused_with_field_and_fix(
    finetune: Command,
    manifest: Callable[..., Path],
    tmp_path: Path,
    command: str,
    spec: dict[str, object],
    words: tuple[str, ...],
) -> None:
    said = finetune(command, "-f", manifest(**spec))
    assert said.code == ExitCode.USAGE
    for word in words:
        assert word in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / ".finetune").exists()


def test_every_problem_is_told_at_once(finetune: Command, manifest: Callable[..., Path]) -> None:
    path = manifest(
        trainig={}, training={"learningRate": 7, "epochs": 0}, deepspeed={"zeroStage": 4}
    )
    said = finetune("validate", "-f", path)
    for field in ("trainig", "learningRate", "epochs", "zeroStage"):
        assert field in said.err


def test_a_file_that_is_not_there_is_named(finetune: Command) -> None:
    said = finetune("run", "-f", "nowhere.yaml")
    assert said.code == ExitCode.USAGE
    assert "nowhere.yaml" in said.err


def test_a_command_without_a_manifest_says_how_to_give_one(finetune: Command) -> None:
    said = finetune("run")
    assert said.code == ExitCode.USAGE
    assert "-f" in said.err


def test_missing_sources_are_data_errors_by_field(
    finetune: Command, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    path = manifest(dataset={"train": "nothing.csv"})
    said = finetune("run", "-f", path)
    assert said.code == ExitCode.DATA
    assert "spec.dataset.train" in said.err
    assert str(tmp_path / "nothing.csv") in said.err


def test_an_accelerator_without_a_rate_is_refused_under_a_money_limit(
    finetune: Command, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    path = manifest(budget={"maxCost": "5"})
    said = finetune("run", "-f", path, "--output", "lines")
    assert said.code == ExitCode.USAGE
    assert "RateMissing" in said.err
    assert "named local" in said.err
    assert not list((tmp_path / ".finetune" / "reviews" / "attempts").iterdir())


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ({"model": {"uri": "bert-base-uncased"}}, "hf://OWNER/NAME@COMMIT"),
        ({"dataset": {"train": "~/rows.csv"}}, "~ means nothing here"),
    ],
)
def test_a_path_that_was_meant_otherwise_is_told_how_to_write_it(
    finetune: Command, manifest: Callable[..., Path], spec: dict[str, object], hint: str
) -> None:
    said = finetune("run", "-f", manifest(**spec))
    assert said.code == ExitCode.DATA
    assert hint in said.err


def test_a_manifest_may_come_from_a_pipe(
    finetune: Command, manifest: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = manifest(dataset={"train": "nothing.csv"}).read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert "reviews: valid" in finetune("validate", "-f", "-").out
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert f"{Path.cwd()}/nothing.csv does not exist" in finetune("run", "-f", "-").err


def test_a_folder_whose_name_is_no_text_is_refused(
    finetune: Command, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    odd = tmp_path / os.fsdecode(b"w\xff")
    said = finetune("run", "-f", manifest(), "--workspace", odd)
    assert said.code == ExitCode.USAGE
    assert "not UTF-8; rename it" in said.err
    assert not odd.exists()


def in_a_shell(arguments: str, after: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process that writes ASCII, and `after` it some Python."""
    command = f'{sys.executable} -c "import sys; from finetune_operator.cli.main import main; '
    return subprocess.run(
        ["bash", "-c", f'{command} main(); {after}" {arguments}'],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_cannot_be_written_is_one_message(manifest: Callable[..., Path]) -> None:
    done = in_a_shell(f"validate -f {manifest()} > /dev/full")
    assert done.returncode == ExitCode.STORAGE
    assert done.stderr == "error: standard output: No space left on device\n"


def test_a_closed_output_ends_no_run(manifest: Callable[..., Path]) -> None:
    path = manifest(budget={"maxCost": "5"})
    done = in_a_shell(f"run -f {path} --output lines >&-")
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "RateMissing" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_output_without_unicode_takes_what_screens_write(manifest: Callable[..., Path]) -> None:
    done = in_a_shell(f"validate -f {manifest()}", after="sys.stdout.write('1 × 1')")
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    assert done.stdout.endswith("1 \\xd7 1")


def test_a_workspace_that_is_a_file_is_refused(
    finetune: Command, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    said = finetune("run", "-f", manifest(), "--workspace", tmp_path / "rows.csv")
    assert said.code == ExitCode.STORAGE
    assert "not a folder" in said.err


def test_a_workspace_in_use_is_refused(
    finetune: Command, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    with Workspace(root=tmp_path / "busy").lock():
        said = finetune("run", "-f", manifest(), "--workspace", tmp_path / "busy")
    assert said.code == ExitCode.STORAGE
    assert f"process {os.getpid()}" in said.err


def test_a_run_of_this_machine_is_found_by_a_name_that_no_cluster_knows(
    finetune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert "on this machine" not in finetune("report", "reviews").err
    (tmp_path / ".finetune" / "reviews").mkdir(parents=True)
    said = finetune("report", "reviews")
    assert said.code == ExitCode.USAGE
    assert "`finetune report .finetune/reviews`" in said.err


def test_a_page_of_no_run_is_refused(
    finetune: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert finetune("report").code == ExitCode.USAGE
    said = finetune("report", tmp_path)
    assert said.code == ExitCode.USAGE
    assert "not the workspace of a run" in said.err


def test_the_version_and_the_help_are_told(finetune: Command) -> None:
    assert "finetune" in finetune("--version").out
    helped = finetune("run", "--help")
    assert helped.code == 0
    assert "--workspace" in helped.out


@pytest.mark.parametrize(
    ("phase", "reason", "code"),
    [
        (Phase.COMPLETE, Reason.EXPORTED, ExitCode.DONE),
        (Phase.FAILED, Reason.GATE_FAILED, FAILED),
        (Phase.FAILED, Reason.DEADLINE_EXCEEDED, FAILED),
        (Phase.FAILED, FailureClass.USER_ERROR, ExitCode.USAGE),
        (Phase.FAILED, FailureClass.DATA_ERROR, ExitCode.DATA),
        (Phase.SUSPENDED, Reason.INTERRUPTED, ExitCode.STOPPED),
        (Phase.SUSPENDED, Reason.BUDGET_EXCEEDED, ExitCode.STOPPED),
        (Phase.PENDING, Reason.RATE_MISSING, ExitCode.USAGE),
    ],
)
def test_exit_codes_follow_phase_and_reason(phase: Phase, reason: str, code: int) -> None:
    assert exit_code(JobStatus(phase=phase, reason=reason)) == code


def test_a_disk_that_stays_full_ends_in_the_exit_code_of_storage() -> None:
    row = AttemptStatus(number=4, step=Step.TRAIN, state="Ended", reason=FailureClass.STORAGE)
    status = JobStatus(phase=Phase.FAILED, reason=Reason.BACKOFF_LIMIT_EXCEEDED, attempts=(row,))
    assert exit_code(status) == ExitCode.STORAGE


def test_models_are_listed_for_every_task_and_for_programs(finetune: Command) -> None:
    table = finetune("models")
    assert table.code == ExitCode.DONE
    assert [line.split()[0] for line in table.out.splitlines()] == list(Task)
    chosen = json.loads(finetune("models", "--task", "causal-lm", "-o", "json").out)
    assert chosen == {"causal-lm": list(TESTED[Task.CAUSAL_LM])}
    assert finetune("models", "--task", "chess").code == ExitCode.USAGE
