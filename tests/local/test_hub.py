"""Models and rows from the Hugging Face Hub, by its own client, from its protocol on loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.run import LAYOUT
from finetune_trainer import hub
from finetune_trainer.errors import DataError, StorageError, TrainerError, UsageError
from harness.hubserver import COMMIT, LARGE_BYTES, HubServer, Repository, running_hub
from harness.trainer import a_run, an_environment
from harness.training import Job, train_to_end

MODEL = f"hf://acme/tiny-bert@{COMMIT}"
ROWS = f"hf://datasets/acme/reviews@{COMMIT}/folder/rows.csv"
ANOTHER_COMMIT = "f" * 40


@pytest.fixture
def server(
    tmp_path: Path, tiny_model: Path, sentences_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A hub with a model and a dataset, which this process would ask."""
    model, rows = tmp_path / "hub" / "model", tmp_path / "hub" / "rows"
    shutil.copytree(tiny_model, model)
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    (model / "modeling.py").write_text("raise SystemExit")
    (model / "consolidated.safetensors").write_bytes(b"a second copy")
    (model / "onnx").mkdir()
    (rows / "folder").mkdir(parents=True)
    shutil.copyfile(sentences_csv, rows / "folder" / "rows.csv")
    with running_hub() as running:
        running.repositories["models", "acme/tiny-bert"] = Repository(model)
        running.repositories["datasets", "acme/reviews"] = Repository(rows)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client asks five times more, and waits for half a minute in all."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def test_a_model_is_what_it_loads_from_and_nothing_else(
    server: HubServer, tiny_model: Path, tmp_path: Path
) -> None:
    hub.fetch_model(MODEL, tmp_path / "model")
    came = {one.name for one in (tmp_path / "model").iterdir() if one.is_file()}
    assert came == {one.name for one in tiny_model.iterdir()}
    for name in came:
        assert (tmp_path / "model" / name).read_bytes() == (tiny_model / name).read_bytes()
    assert (tiny_model / "model.safetensors").stat().st_size >= LARGE_BYTES


def test_what_is_there_is_not_fetched_again(server: HubServer, tmp_path: Path) -> None:
    hub.fetch_model(MODEL, tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    server.sent.clear()
    hub.fetch_model(MODEL, tmp_path / "model")
    assert server.sent == ["config.json"]


def test_a_token_opens_what_is_private(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = server.repositories["datasets", "acme/reviews"].folder
    server.repositories["datasets", "acme/reviews"] = Repository(folder, token="a-token")
    assert "HF_TOKEN" in refused(ROWS, tmp_path, DataError)
    monkeypatch.setenv("HF_TOKEN", "a-token")
    hub.fetch_file(ROWS, "dataset.train", tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_bytes() == (folder / "folder" / "rows.csv").read_bytes()


@pytest.mark.parametrize(
    ("uri", "kind", "said"),
    [
        ("hf://acme/tiny-bert", UsageError, "hf://OWNER/NAME@COMMIT"),
        ("hf://acme/tiny-bert@main", UsageError, "40 digits of a commit"),
        (f"hf://datasets/acme/reviews@{COMMIT}", UsageError, "COMMIT/FILE"),
        (f"hf://datasets/acme/reviews@{COMMIT}/../rows.csv", UsageError, "COMMIT/FILE"),
        (f"hf://acme/nothing@{COMMIT}", DataError, "no such repository"),
        (f"hf://acme/tiny-bert@{ANOTHER_COMMIT}", DataError, "no such commit"),
        (f"hf://datasets/acme/reviews@{COMMIT}/none.csv", DataError, "no such file"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_by_name(
    server: HubServer, tmp_path: Path, uri: str, kind: type[TrainerError], said: str
) -> None:
    assert said in refused(uri, tmp_path, kind)


def test_terms_to_consent_to_are_told_of(server: HubServer, tmp_path: Path) -> None:
    folder = server.repositories["models", "acme/tiny-bert"].folder
    server.repositories["models", "acme/tiny-bert"] = Repository(folder, gated=True)
    assert "consent to its terms" in refused(MODEL, tmp_path, DataError)


def test_pickles_alone_are_refused(server: HubServer, tmp_path: Path) -> None:
    folder = server.repositories["models", "acme/tiny-bert"].folder
    (folder / "model.safetensors").unlink()
    assert "no weights in safetensors" in refused(MODEL, tmp_path, DataError)


def test_other_bytes_than_the_hub_has_are_not_kept(server: HubServer, tmp_path: Path) -> None:
    server.digest_of_others = "0" * 64
    assert "other bytes" in refused(MODEL, tmp_path, StorageError)
    assert not (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_fails_is_worth_another_attempt(server: HubServer, tmp_path: Path) -> None:
    server.status = 503
    assert "503" in refused(MODEL, tmp_path, StorageError)
    assert "503" in refused(ROWS, tmp_path, StorageError)


def test_a_hub_that_forbids_is_not_asked_again(server: HubServer, tmp_path: Path) -> None:
    server.status = 403
    assert "not allowed" in refused(MODEL, tmp_path, DataError)
    assert "not allowed" in refused(ROWS, tmp_path, DataError)


@pytest.mark.usefixtures("impatient")
def test_nobody_there_is_worth_another_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_hub() as gone:
        url = gone.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    refused(MODEL, tmp_path, StorageError)
    refused(ROWS, tmp_path, StorageError)


def test_a_job_trains_from_the_hub_and_asks_it_in_the_prepare_step_alone(
    server: HubServer, tmp_path: Path
) -> None:
    run = a_run(model=MODEL, dataset={"train": ROWS})
    environment = {**os.environ, **an_environment(tmp_path / "job", run)}
    command = [sys.executable, "-m", "finetune_trainer", "prepare"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    server.status = 503
    job = Job(folder=tmp_path / "job", model=MODEL, training={"max_steps": 2})
    code, message = train_to_end(job)
    assert code == 0, message
    assert (job.workspace / LAYOUT.model / "config.json").exists()


def refused(uri: str, folder: Path, kind: type[TrainerError]) -> str:
    """What is said of an address, in one line that names its field and no secret."""
    with pytest.raises(kind) as caught:
        fetch(uri, folder)
    message = str(caught.value)
    assert message.startswith(("model.uri: ", "dataset.train: "))
    assert "\n" not in message
    assert "hf_abc" not in message
    return message


def fetch(uri: str, folder: Path) -> None:
    """Bring what a URI names to its place in a folder."""
    if uri.startswith("hf://datasets/"):
        hub.fetch_file(uri, "dataset.train", folder / "rows.csv")
    else:
        hub.fetch_model(uri, folder / "model")
