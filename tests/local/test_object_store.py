"""The object store that the tests read and write: a real S3 server, with real refusals."""

from __future__ import annotations

import pytest
import s3fs

from harness.objectstore import ObjectStore


def client(store: ObjectStore, *, secret_key: str) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        endpoint_url=store.endpoint,
        key=store.access_key,
        secret=secret_key,
        skip_instance_cache=True,
    )


def test_what_is_written_is_read_back_from_another_client(object_store: ObjectStore) -> None:
    path = f"{object_store.new_bucket()}/a folder/rows.csv"
    client(object_store, secret_key=object_store.secret_key).pipe_file(path, b"text,label\n")
    reader = client(object_store, secret_key=object_store.secret_key)
    assert reader.cat_file(path) == b"text,label\n"


def test_a_wrong_key_is_refused(object_store: ObjectStore) -> None:
    bucket = object_store.new_bucket()
    with pytest.raises(PermissionError):
        client(object_store, secret_key="wrong").ls(bucket)
