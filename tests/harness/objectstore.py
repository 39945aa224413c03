"""Servers on a folder for what reads and writes `s3://`, a real one, and for what reads `gs://`.

The `object_store` fixture of tests/conftest.py starts the first once per run.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.processes import free_port, listens, program, running

REGION = "us-east-1"


@dataclass(frozen=True)
class ObjectStore:
    """Where the server answers, and the keys of the one account it has."""

    endpoint: str
    access_key: str
    secret_key: str
    pid: int
    """Process id of the server."""

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which every S3 client finds the server and its keys."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def new_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        import s3fs

        bucket = f"test-{secrets.token_hex(6)}"
        s3fs.S3FileSystem(
            endpoint_url=self.endpoint, key=self.access_key, secret=self.secret_key
        ).mkdir(bucket)
        return bucket


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStore]:
    """Run the server on an empty folder until the block ends."""
    port = free_port()
    access_key, secret_key = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)
    objects, metadata = folder / "objects", folder / "metadata"
    objects.mkdir()
    metadata.mkdir()
    command: list[str | Path] = [
        program("versitygw"),
        f"--port=127.0.0.1:{port}",
        f"--region={REGION}",
        "posix",
        # Beside the objects: not every file system keeps extended attributes.
        f"--sidecar={metadata}",
        objects,
    ]
    # By environment, so that the keys don't stand in the process list.
    keys = {"ROOT_ACCESS_KEY": access_key, "ROOT_SECRET_KEY": secret_key}
    with running(
        command, log=folder / "versitygw.log", ready=lambda: listens(port), environment=keys
    ) as server:
        yield ObjectStore(
            endpoint=f"http://127.0.0.1:{port}",
            access_key=access_key,
            secret_key=secret_key,
            pid=server.pid,
        )


@contextmanager
def running_google_store(folder: Path) -> Iterator[str]:
    """Serve the buckets that are folders below `folder` until the block ends; gives its address.

    It speaks Google Cloud Storage's JSON API, and lets anybody read.
    """
    port = free_port()
    command: list[str | Path] = [
        program("fake-gcs-server"),
        "-scheme=http",
        "-host=127.0.0.1",
        f"-port={port}",
        "-backend=memory",
        f"-data={folder}",
    ]
    log = folder.with_name(f"{folder.name}.log")
    with running(command, log=log, ready=lambda: listens(port)):
        yield f"http://127.0.0.1:{port}"
