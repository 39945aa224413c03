"""A step's report leaves the pod before the pod ends: served until its digest is acknowledged."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest

from finetune_api.report import ExitCode, FailureClass, Step, Termination
from finetune_api.run import LAYOUT, Env
from harness.evaluation import OUT_OF_REACH, Job, a_prepared_job
from harness.processes import PATIENCE_SECONDS, end_with_parent, free_port
from harness.trainer import a_run, an_environment


@dataclass
class Pod:
    """A step's process, and where it offers its report."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    def ask(self, method: str, path: str) -> tuple[int, bytes] | None:
        """Status and body of an answer; None where nothing listens."""
        connection = HTTPConnection("127.0.0.1", self.port)
        try:
            connection.request(method, path)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except ConnectionError:
            return None
        finally:
            connection.close()

    def report(self) -> bytes:
        """Ask for the report until it is there."""
        gives_up = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < gives_up:
            reply = self.ask("GET", "/report")
            if reply is not None:
                assert reply[0] == HTTPStatus.OK
                return reply[1]
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"no report was served: {self.log()}")

    def acknowledge(self, digest: str) -> int | None:
        reply = self.ask("POST", f"/report/ack?digest={digest}")
        return None if reply is None else reply[0]

    def end(self) -> tuple[int, Termination]:
        code = self.process.wait(PATIENCE_SECONDS)
        return code, Termination.model_validate_json((self.folder / "word.json").read_bytes())

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextmanager
def a_pod(job: Job, step: Step, *, seconds: str, port: int | None = None) -> Iterator[Pod]:
    run = (
        job.run(OUT_OF_REACH)
        if step is Step.EVALUATE
        else a_run(dataset=job.dataset, model="model", training={"max_length": 12})
    )
    port = port or free_port()
    (job.folder / "word.json").unlink(missing_ok=True)
    environment = an_environment(
        job.folder,
        run,
        BASE=str(job.folder),
        LISTEN=f"127.0.0.1:{port}",
        TERMINATION_LOG=str(job.folder / "word.json"),
        REPORT_SECONDS=seconds,
    )
    with (job.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", step.value],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            # One system call between fork and exec, made in the main thread.
            preexec_fn=end_with_parent,  # noqa: PLW1509
        )
    try:
        yield Pod(process, port, job.folder)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, sentences_csv: Path) -> Job:
    """A job whose rows are prepared, with a checkpoint to evaluate."""
    from transformers import AutoModelForSequenceClassification

    job = a_prepared_job(tmp_path_factory.mktemp("jobs") / "job", tiny_model, sentences_csv)
    names = job.prepared.labels
    job.save_checkpoint(
        AutoModelForSequenceClassification.from_pretrained(
            tiny_model,
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )
    return job


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


REPORTS = {Step.PREPARE: LAYOUT.prepare_report, Step.EVALUATE: LAYOUT.evaluation_report}


@pytest.mark.parametrize("step", REPORTS)
@pytest.mark.parametrize("occasion", ["the first time", "served again"])
def test_a_report_is_served_until_its_very_bytes_are_acknowledged(
    job: Job, step: Step, occasion: str
) -> None:
    stored = job.workspace.path(REPORTS[step])
    if occasion == "the first time":
        stored.unlink(missing_ok=True)
    with a_pod(job, step, seconds=str(PATIENCE_SECONDS)) as pod:
        report = pod.report()
        assert report == stored.read_bytes()
        assert pod.acknowledge(digest_of(report + b" ")) == HTTPStatus.CONFLICT
        assert pod.ask("POST", "/report/ack") == (
            HTTPStatus.CONFLICT,
            f"the report is {digest_of(report)}\n".encode(),
        )
        assert pod.report() == report
        assert pod.acknowledge(digest_of(report)) == HTTPStatus.NO_CONTENT
        code, word = pod.end()
    assert (code, word.exit_code, word.failure) == (ExitCode.DONE, 0, None)
    assert word.report is not None
    assert (word.report.path, word.report.digest) == (str(REPORTS[step]), digest_of(report))


def wait_for_nobody(pod: Pod) -> None:
    """Nobody asks, and the time is short."""


def ask_to_end(pod: Pod) -> None:
    pod.report()
    pod.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("seconds", "meanwhile"), [("1", wait_for_nobody), (str(PATIENCE_SECONDS), ask_to_end)]
)
def test_a_report_that_nobody_acknowledges_costs_the_step_nothing(
    job: Job, seconds: str, meanwhile: Callable[[Pod], None]
) -> None:
    with a_pod(job, Step.PREPARE, seconds=seconds) as pod:
        meanwhile(pod)
        code, word = pod.end()
    assert (code, word.exit_code, word.failure) == (ExitCode.DONE, 0, None)
    assert word.report is not None
    assert "nobody said that the report" in pod.log()


@pytest.mark.parametrize("seconds", ["", "0"])
def test_without_seconds_nothing_is_served(job: Job, seconds: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        # To serve there would fail.
        with a_pod(job, Step.PREPARE, seconds=seconds, port=taken.getsockname()[1]) as pod:
            code, word = pod.end()
    assert (code, word.failure) == (ExitCode.DONE, None)


def test_a_place_that_is_taken_is_the_nodes_fault(job: Job) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        with a_pod(job, Step.PREPARE, seconds="1", port=taken.getsockname()[1]) as pod:
            code, word = pod.end()
    assert code != ExitCode.DONE
    assert word.failure is not None
    assert word.failure.failure_class is FailureClass.NODE_FAULT


def test_a_step_that_failed_serves_nothing_and_ends_at_once(
    tmp_path: Path, tiny_model: Path, sentences_csv: Path
) -> None:
    job = a_prepared_job(tmp_path / "job", tiny_model, sentences_csv)
    (job.folder / "rows.csv").unlink()
    with a_pod(job, Step.PREPARE, seconds="1000000") as pod:
        code, word = pod.end()
    assert code == ExitCode.DATA
    assert word.report is None


def test_seconds_that_are_no_number_are_named(job: Job) -> None:
    with a_pod(job, Step.PREPARE, seconds="soon") as pod:
        assert pod.process.wait(PATIENCE_SECONDS) == ExitCode.USAGE
    assert f"{Env.REPORT_SECONDS} is 'soon'" in pod.log()
