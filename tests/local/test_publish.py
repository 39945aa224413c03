"""A finished model on an object store: whole or no model, whatever fails.

Nobody else's files are touched.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from finetune_api.output import Credentials
from finetune_trainer.errors import DataError, StorageError, UsageError
from finetune_trainer.models import publish as publishing
from finetune_trainer.models.export import MANIFEST, ExportManifest
from finetune_trainer.models.publish import UNFINISHED, check_output, publish
from finetune_trainer.objectstore import open_s3, require_credentials
from finetune_trainer.training.manifest import digest_files
from harness.hubserver import HubServer, Repository, running_hub
from harness.objectstore import ObjectStore, running_object_store
from harness.trainer import a_run


def export(folder: Path, files: dict[str, bytes]) -> Path:
    """Write a folder as an export is written, its manifest among it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    manifest = ExportManifest(files=tuple(digest_files(folder, sorted(files))))
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def use(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the store's variables, as its Secret would, and return a prefix of a new bucket."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{store.new_bucket()}/models/reviews"


@pytest.fixture
def uri(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    return use(object_store, monkeypatch)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    files = {"config.json": b"{}", "model.safetensors": b"w" * 300_000, "onnx/a.bin": b"1"}
    return export(tmp_path / "model", files)


def lying_at(uri: str) -> dict[str, bytes]:
    store, root = open_s3(), uri.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): store.cat_file(path) for path in store.find(uri)}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_lies_there_is_the_export_byte_for_byte(uri: str, model: Path) -> None:
    check_output(uri)
    assert lying_at(uri) == {}
    publish(model, uri)
    assert lying_at(uri) == contents(model)


def test_a_model_that_lies_there_whole_is_not_written_again(uri: str, model: Path) -> None:
    publish(model, uri)
    store = open_s3()
    before = {path: store.info(path)["LastModified"] for path in store.find(uri)}
    (model / "config.json").write_bytes(b"[]")  # read, it would be seen
    publish(model, uri)
    assert {path: store.info(path)["LastModified"] for path in store.find(uri)} == before


def test_an_earlier_export_gives_way_with_all_of_its_files(
    uri: str, model: Path, tmp_path: Path
) -> None:
    publish(export(tmp_path / "old", {"config.json": b"old", "shard-2.safetensors": b"x"}), uri)
    check_output(uri)
    publish(model, uri)
    assert lying_at(uri) == contents(model)


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": b"mine"},
        {MANIFEST: b'{"name": "a web app"}', "index.html": b""},
    ],
)
def test_files_of_somebody_else_are_refused_and_stay(
    uri: str, model: Path, files: dict[str, bytes]
) -> None:
    store = open_s3()
    for name, content in files.items():
        store.pipe_file(f"{uri}/{name}", content)
    refusal = r"files lie there .* name an empty prefix"
    with pytest.raises(DataError, match=refusal):
        check_output(uri)
    with pytest.raises(DataError, match=refusal):
        publish(model, uri)
    assert lying_at(uri) == files


def test_a_file_beside_an_earlier_export_is_nobodys_to_remove(uri: str, model: Path) -> None:
    publish(model, uri)
    open_s3().pipe_file(f"{uri}/notes.txt", b"mine")
    with pytest.raises(DataError, match="1 files lie there"):
        check_output(uri)


def test_a_copy_that_was_cut_off_is_no_model_and_is_made_anew(uri: str, model: Path) -> None:
    store = open_s3()
    for name in (UNFINISHED, "model.safetensors", "of-an-earlier-try.bin"):
        store.pipe_file(f"{uri}/{name}", b"half")
    check_output(uri)
    publish(model, uri)
    assert lying_at(uri) == contents(model)


class DiesAfterOneFile(s3fs.S3FileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """A client whose store is killed once the first file has arrived."""

    server: int

    def put_file(self, *args: Any, **how: Any) -> None:
        """Upload, then kill the server; what fails after that fails for real."""
        super().put_file(*args, **how)
        if self.server:
            os.kill(self.server, signal.SIGKILL)
            type(self).server = 0


def test_a_store_that_dies_amid_the_copy_is_reported_and_leaves_no_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with running_object_store(folder) as store:
        uri = use(store, monkeypatch)
        DiesAfterOneFile.server = store.pid
        dying = DiesAfterOneFile(skip_instance_cache=True, use_listings_cache=False)
        dying.retries = 1
        monkeypatch.setattr(publishing, "open_s3", lambda: dying)
        with pytest.raises(StorageError, match=r"^output.uri: s3://.*: can't be written"):
            publish(model, uri)
    left = sorted(path.name for path in (folder / "objects").rglob("*") if path.is_file())
    assert UNFINISHED in left
    assert MANIFEST not in left


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "access is refused"),
        ({}, "no such file"),
    ],
)
def test_a_store_that_refuses_is_told_before_anything_is_held(
    uri: str, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DataError, match=f"^output.uri: .*{said}"):
        check_output(uri if change else "s3://no-such-bucket/models")


def test_a_secret_of_which_nothing_came_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = a_run(dataset={"train": "rows.csv"})
    named = run.model_copy(update={"credentials": Credentials(secret_name="s3-keys")})
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    require_credentials(run)
    with pytest.raises(UsageError, match=r"credentials.secretName: s3-keys: none of its keys"):
        require_credentials(named)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store")
    require_credentials(named)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with an empty repository that this process may write."""
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / ".gitattributes").write_text("*.safetensors filter=lfs")
    with running_hub() as hub:
        hub.repositories["models", "acme/reviews"] = Repository(
            tmp_path / "hub", token="hf_abc", writer="hf_abc"
        )
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_abc")
        yield hub


REPOSITORY = "hf://acme/reviews"


def committed(repository: HubServer) -> dict[str, bytes]:
    """What lies in the repository, beside what the hub itself puts there."""
    lying = contents(repository.repositories["models", "acme/reviews"].folder)
    return {path: content for path, content in lying.items() if path != ".gitattributes"}


def test_an_export_is_one_commit_byte_for_byte(repository: HubServer, model: Path) -> None:
    check_output(REPOSITORY)
    assert repository.commits == []
    publish(model, REPOSITORY)
    assert committed(repository) == contents(model)
    publish(model, REPOSITORY)
    assert len(repository.commits) == 1


def test_the_same_commit_removes_what_an_earlier_export_had_more(
    repository: HubServer, model: Path, tmp_path: Path
) -> None:
    publish(export(tmp_path / "earlier", {"old/vocab.txt": b"a", "config.json": b"[]"}), REPOSITORY)
    check_output(REPOSITORY)
    publish(model, REPOSITORY)
    assert committed(repository) == contents(model)
    assert "deletedFile old/vocab.txt" in repository.commits[1]


def test_a_repository_with_anybody_elses_files_is_left_alone(
    repository: HubServer, model: Path
) -> None:
    folder = repository.repositories["models", "acme/reviews"].folder
    (folder / "weights.bin").write_bytes(b"theirs")
    with pytest.raises(DataError, match="1 files lie there"):
        check_output(REPOSITORY)
    with pytest.raises(DataError, match="1 files lie there"):
        publish(model, REPOSITORY)
    assert committed(repository) == {"weights.bin": b"theirs"}


def test_a_token_that_may_only_read_is_refused_before_anything_is_held(
    repository: HubServer, tmp_path: Path
) -> None:
    reader = Repository(tmp_path / "hub", token="hf_abc", writer="hf_other")
    repository.repositories["models", "acme/reviews"] = reader
    with pytest.raises(DataError, match="HF_TOKEN is not allowed"):
        check_output(REPOSITORY)
    with pytest.raises(DataError, match="no such repository"):
        check_output("hf://acme/nothing")


def test_a_hub_that_fails_at_the_commit_holds_what_it_held(
    repository: HubServer, model: Path, tmp_path: Path
) -> None:
    earlier = export(tmp_path / "earlier", {"config.json": b"[]"})
    publish(earlier, REPOSITORY)
    repository.refuse_commits = True
    with pytest.raises(StorageError, match="503"):
        publish(model, REPOSITORY)
    assert committed(repository) == contents(earlier)
    repository.refuse_commits = False
    publish(model, REPOSITORY)
    assert committed(repository) == contents(model)
