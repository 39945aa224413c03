"""A pod's last words: whole, within the kubelet's limit, and the environment they come from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import (
    TERMINATION_LIMIT_BYTES,
    ExitCode,
    Failure,
    FailureClass,
    Step,
    Termination,
)
from finetune_api.run import Env
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import StorageError, UsageError
from finetune_trainer.reporting.termination import encode_termination, write_termination
from harness.gangobjects import a_gang


def a_word(message: str, traceback: str = "") -> Termination:
    return Termination(
        step=Step.PREPARE,
        attempt=1,
        worker=0,
        exit_code=ExitCode.DATA,
        failure=Failure(
            failure_class=FailureClass.DATA_ERROR, message=message, traceback=traceback
        ),
    )


@given(
    message=st.text(st.characters(exclude_categories=["Cs"]), max_size=1024),
    traceback=st.text(st.sampled_from("a\n\0é漢😀"), max_size=2400),
)
def test_a_message_fits_and_can_be_read(message: str, traceback: str) -> None:
    encoded = encode_termination(a_word(message, traceback))
    assert len(encoded) <= TERMINATION_LIMIT_BYTES
    read = Termination.model_validate_json(encoded)
    assert read.failure is not None
    assert read.exit_code == ExitCode.DATA
    assert traceback.endswith(read.failure.traceback.removeprefix("…"))


def test_the_traceback_goes_before_the_message_and_its_end_goes_last() -> None:
    message = "漢" * 1024
    read = Termination.model_validate_json(encode_termination(a_word(message, "😀" * 2399 + "!")))
    assert read.failure is not None
    assert read.failure.message == message
    assert read.failure.traceback.startswith("…")
    assert read.failure.traceback.endswith("😀!")
    short = Termination.model_validate_json(encode_termination(a_word("\0" * 1024)))
    assert short.failure is not None
    assert short.failure.message.endswith("\0…")


def test_a_file_that_the_kubelet_made_is_written_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "termination.json"
    path.write_text("x" * 5000)
    made = path.stat().st_ino
    write_termination(path, a_word("second"))
    assert path.read_bytes() == encode_termination(a_word("second"))
    assert path.stat().st_ino == made


def test_a_new_file_appears_alone(tmp_path: Path) -> None:
    write_termination(tmp_path / "termination.json", a_word("first"))
    assert [path.name for path in tmp_path.iterdir()] == ["termination.json"]


def test_a_place_that_cant_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't write the termination message"):
        write_termination(tmp_path / "file" / "termination.json", a_word("x"))


ENVIRONMENT = {Env.RUN_FILE.value: "run.json", Env.WORKSPACE.value: "/w"}


def test_a_local_runs_claims_lie_in_the_workspace_unless_said_otherwise() -> None:
    environment = RankEnvironment.from_env(ENVIRONMENT)
    assert environment.claims == Path("/w/claims")
    assert environment.attempt == 1
    assert environment.base is None
    told = RankEnvironment.from_env({**ENVIRONMENT, Env.CLAIMS.value: "/c"})
    assert told.claims == Path("/c")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({Env.WORKSPACE.value: ""}, "FINETUNE_WORKSPACE is not set. It holds: The job's own"),
        ({Env.RUN_FILE.value: ""}, "FINETUNE_RUN_FILE is not set"),
        ({Env.ATTEMPT.value: "two"}, "FINETUNE_ATTEMPT is 'two': it must be a whole number"),
        ({Env.ATTEMPT.value: "0"}, "at least 1"),
        ({Env.MASTER_PORT.value: "-1"}, "FINETUNE_MASTER_PORT"),
    ],
)
def test_a_wrong_environment_names_its_variable(change: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        RankEnvironment.from_env({**ENVIRONMENT, **change})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "file: Invalid JSON"),
        (b'{"version": 2}', "version: Input should be 1"),
        (b"{}", "job: Field required"),
    ],
)
def test_a_run_that_cant_be_read_names_its_fields(
    tmp_path: Path, content: bytes, words: str
) -> None:
    run = tmp_path / "run.json"
    run.write_bytes(content)
    environment = RankEnvironment.from_env({**ENVIRONMENT, Env.RUN_FILE.value: str(run)})
    with pytest.raises(UsageError, match=words):
        environment.load_run()


@pytest.mark.parametrize(("fake", "device"), [("true", "cpu"), ("", "cuda")])
def test_where_accelerators_are_fake_a_run_computes_on_the_cpu(
    tmp_path: Path, fake: str, device: str
) -> None:
    run = tmp_path / "run.json"
    run.write_text(a_gang().action.run.model_dump_json(by_alias=True))
    told = {**ENVIRONMENT, Env.RUN_FILE.value: str(run), Env.FAKE_GPUS.value: fake}
    assert RankEnvironment.from_env(told).load_run().gang.device == device


def test_a_run_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    missing = {**ENVIRONMENT, Env.RUN_FILE.value: str(tmp_path / "none.json")}
    with pytest.raises(StorageError, match=r"none\.json: can't read the run file"):
        RankEnvironment.from_env(missing).load_run()
