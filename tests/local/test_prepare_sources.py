"""Where rows come from: claims, paths, HTTPS and S3; and what is refused on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_trainer.data.sources import display, fetch, resolve_local
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import DataError, StorageError, TrainerError, UsageError
from harness.httpsserver import HttpsServer, running_https_server
from harness.hubserver import running_hub
from harness.objectstore import ObjectStore, running_google_store

ROWS = b"text,label\nfine,a\n" * 100_000
FIELD = "dataset.train"


@pytest.fixture
def environment(tmp_path: Path) -> RankEnvironment:
    (tmp_path / "claims" / "data" / "folder").mkdir(parents=True)
    (tmp_path / "claims" / "data" / "rows.csv").write_bytes(ROWS)
    (tmp_path / "outside.csv").write_bytes(b"nobody's business")
    return RankEnvironment.from_env(
        {
            "FINETUNE_RUN_FILE": "run.json",
            "FINETUNE_WORKSPACE": str(tmp_path / "workspace"),
            "FINETUNE_CLAIMS": str(tmp_path / "claims"),
        }
    )


def fetched(uri: str, environment: RankEnvironment, folder: Path) -> bytes:
    (file,) = fetch(uri, environment, FIELD, folder)
    content = file.path.read_bytes()
    assert file.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content


def refused(uri: str, environment: RankEnvironment, folder: Path, kind: type[TrainerError]) -> str:
    with pytest.raises(kind) as caught:
        fetch(uri, environment, FIELD, folder)
    message = str(caught.value)
    assert FIELD in message or "redirects" in message
    assert "\n" not in message
    assert "secret" not in message
    return message


def test_a_claims_file_is_copied_and_its_bytes_digested(
    environment: RankEnvironment, tmp_path: Path
) -> None:
    assert fetched("pvc://data/rows.csv", environment, tmp_path / "copy") == ROWS


def test_a_folder_of_a_claim_gives_its_files_in_the_order_of_their_names(
    environment: RankEnvironment, tmp_path: Path
) -> None:
    folder = environment.claims / "data" / "folder"
    for name in ("b.csv", "a.csv", "c.CSV", "notes.txt", "._a.csv"):
        (folder / name).write_text(name)
    files = fetch("pvc://data/folder", environment, FIELD, tmp_path / "copy")
    names = ["a.csv", "b.csv", "c.CSV"]
    assert [file.name for file in files] == [f"pvc://data/folder/{name}" for name in names]
    assert [file.path.read_text() for file in files] == names


@pytest.mark.parametrize(
    "uri",
    [
        "pvc://data/../../outside.csv",
        "pvc://data/folder/../../../outside.csv",
        "pvc://data/link.csv",
        "pvc://data//etc/hostname",
        "pvc://../outside.csv",
        "pvc://data",
        "pvc://data/",
        "pvc:///rows.csv",
        "pvc://DATA/rows.csv",
    ],
)
def test_nothing_outside_of_a_claim_is_read(
    environment: RankEnvironment, tmp_path: Path, uri: str
) -> None:
    (environment.claims / "data" / "link.csv").symlink_to(tmp_path / "outside.csv")
    message = refused(uri, environment, tmp_path / "copy", UsageError)
    assert "leads out of its claim" in message or "pvc://CLAIM/PATH" in message


def test_a_link_in_a_folder_leads_nowhere_outside_either(
    environment: RankEnvironment, tmp_path: Path
) -> None:
    (environment.claims / "data" / "folder" / "a.csv").symlink_to(tmp_path / "outside.csv")
    refused("pvc://data/folder", environment, tmp_path / "copy", UsageError)


def test_a_path_needs_a_local_run_to_start_from(
    environment: RankEnvironment, tmp_path: Path
) -> None:
    message = refused("rows.csv", environment, tmp_path / "copy", UsageError)
    assert "only a local run can follow (FINETUNE_BASE is not set)" in message
    local = RankEnvironment.from_env(
        {
            "FINETUNE_RUN_FILE": "run.json",
            "FINETUNE_WORKSPACE": str(tmp_path / "workspace"),
            "FINETUNE_BASE": str(environment.claims / "data"),
        }
    )
    assert fetched("rows.csv", local, tmp_path / "copy") == ROWS
    message = refused("none.csv", local, tmp_path / "copy", DataError)
    assert f"none.csv: no such file; check the path (it starts from {local.base})" in message


@pytest.mark.parametrize("uri", ["ftp://host/rows.csv", "http://host/rows.csv", "file:///etc/x"])
def test_an_unknown_scheme_is_refused(environment: RankEnvironment, uri: str) -> None:
    with pytest.raises(UsageError, match="isn't known here; use pvc://CLAIM/PATH"):
        resolve_local(uri, environment, FIELD)


def test_what_may_be_secret_is_never_shown() -> None:
    shown = display("https://user:secret@host:8443/rows.csv?signature=secret#secret")
    assert shown == "https://host:8443/rows.csv"


@pytest.fixture(scope="module")
def https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    served, keys = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("keys")
    (served / "rows.csv").write_bytes(ROWS)
    with running_https_server(served, keys) as server:
        yield server


@pytest.fixture
def trusted(https: HttpsServer, monkeypatch: pytest.MonkeyPatch) -> HttpsServer:
    monkeypatch.setenv("SSL_CERT_FILE", str(https.authority))
    return https


@pytest.mark.parametrize("path", ["rows.csv", "moved/rows.csv", "rows.csv?signature=secret"])
def test_https_brings_the_same_bytes(
    environment: RankEnvironment, tmp_path: Path, trusted: HttpsServer, path: str
) -> None:
    assert fetched(f"{trusted.url}/{path}", environment, tmp_path / "copy") == ROWS


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("none.csv", DataError, "no such file; check the address"),
        ("refused.csv", DataError, "access is refused"),
        ("broken.csv", StorageError, "the server answered 503"),
        ("cut.csv", StorageError, "can't be fetched (ClientPayloadError)"),
        ("downgraded/rows.csv", DataError, "which is not https"),
        ("folder/", UsageError, "must name a file"),
    ],
)
def test_https_that_fails_says_whether_to_try_again(
    environment: RankEnvironment,
    tmp_path: Path,
    trusted: HttpsServer,
    path: str,
    kind: type[TrainerError],
    words: str,
) -> None:
    uri = f"{trusted.url}/{path}?signature=secret"
    assert words in refused(uri, environment, tmp_path / "copy", kind)


def test_a_certificate_that_nobody_vouches_for_is_refused(
    environment: RankEnvironment, tmp_path: Path, https: HttpsServer
) -> None:
    message = refused(f"{https.url}/rows.csv", environment, tmp_path / "copy", DataError)
    assert "certificate is not trusted" in message


def test_a_server_that_is_not_there_may_be_there_later(
    environment: RankEnvironment, tmp_path: Path
) -> None:
    message = refused("https://127.0.0.1:9/rows.csv", environment, tmp_path / "c", StorageError)
    assert "can't be fetched" in message


@pytest.fixture
def bucket(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    bucket = object_store.new_bucket()
    import s3fs

    store = s3fs.S3FileSystem(
        endpoint_url=object_store.endpoint,
        key=object_store.access_key,
        secret=object_store.secret_key,
        skip_instance_cache=True,
    )
    store.pipe_file(f"{bucket}/data/rows.csv", ROWS)
    return bucket


def test_s3_brings_the_same_bytes(
    environment: RankEnvironment, tmp_path: Path, bucket: str
) -> None:
    assert fetched(f"s3://{bucket}/data/rows.csv", environment, tmp_path / "copy") == ROWS


@pytest.mark.parametrize("key", ["{bucket}/data/none.csv", "no-such-bucket/rows.csv"])
def test_an_object_that_is_not_there_is_a_data_error(
    environment: RankEnvironment, tmp_path: Path, bucket: str, key: str
) -> None:
    uri = f"s3://{key.format(bucket=bucket)}"
    assert "no such file" in refused(uri, environment, tmp_path / "copy", DataError)


def test_keys_that_the_store_refuses_are_a_data_error(
    environment: RankEnvironment,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    uri = f"s3://{bucket}/data/rows.csv"
    assert "access is refused" in refused(uri, environment, tmp_path / "copy", DataError)


def test_without_keys_the_credentials_are_named(
    environment: RankEnvironment,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    uri = f"s3://{bucket}/data/rows.csv"
    assert "check the address and the cred" in refused(uri, environment, tmp_path / "c", DataError)


def test_a_store_that_is_not_there_may_be_there_later(
    environment: RankEnvironment,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    uri = f"s3://{bucket}/data/rows.csv"
    assert "can't be fetched" in refused(uri, environment, tmp_path / "copy", StorageError)


@pytest.fixture
def google_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "google" / "bucket" / "a folder").mkdir(parents=True)
    (tmp_path / "google" / "bucket" / "a folder" / "rows.csv").write_bytes(ROWS)
    with running_google_store(tmp_path / "google") as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield "gs://bucket"


def test_google_cloud_storage_brings_the_same_bytes(
    environment: RankEnvironment, tmp_path: Path, google_bucket: str
) -> None:
    assert fetched(f"{google_bucket}/a folder/rows.csv", environment, tmp_path / "copy") == ROWS
    for address in (f"{google_bucket}/none.csv", "gs://no-such-bucket/rows.csv"):
        assert "no such file" in refused(address, environment, tmp_path / "copy", DataError)


@pytest.mark.parametrize("status", [401, 403])
def test_google_cloud_storage_that_refuses_is_a_data_error(
    environment: RankEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with running_hub() as server:
        server.status = status
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        message = refused("gs://bucket/rows.csv", environment, tmp_path / "copy", DataError)
    assert "access is refused" in message


def test_a_key_of_google_that_is_no_json_is_named(
    environment: RankEnvironment,
    tmp_path: Path,
    google_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GOOGLE_CREDENTIALS", "/path/to/key.json")
    with pytest.raises(UsageError, match="GOOGLE_CREDENTIALS is no JSON"):
        fetch(f"{google_bucket}/a folder/rows.csv", environment, FIELD, tmp_path / "copy")
