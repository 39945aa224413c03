"""Builds the two images, and what they stand on, with no container engine running.

The base that a registry has elsewhere is bootstrapped from Debian's packages here; the Dockerfiles
are those that `docker build` takes. All images end up in one containerd store, from which every
node of the cluster starts (`containers.py`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.cluster.commands import run, run_logged, say
from tools.cluster.packages import FOR_IMAGES, require
from tools.cluster.place import IMAGE_STORE, IMAGES, REPOSITORY
from tools.cluster.store import LAYOUT, store

VERSION = "0.1.0"
OPERATOR = f"localhost/finetune-operator:{VERSION}"
TRAINER = f"localhost/finetune-trainer:{VERSION}"
PAUSE = "localhost/finetune-pause:1"
BASE = "localhost/finetune-base:bookworm"
"""Stands in for the Dockerfiles' own BASE."""
ALL = (PAUSE, OPERATOR, TRAINER)

_BASE_PACKAGES = "python3,python3-venv,ca-certificates"
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_SOURCES = ("Dockerfile.operator", "Dockerfile.trainer", ".dockerignore", "pyproject.toml")
_SOURCE_FOLDERS = ("constraints", "operator", "trainer")
_STAMP = IMAGES / "stamp.json"


def build() -> None:
    """Bring the store up to date with the working tree; what has not changed is not built again.

    Raises
    ------
    ClusterError
        If a part can't be built; its log is named.
    """
    require(FOR_IMAGES)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with _alone():
        wanted = {image: _digest(image) for image in ALL}
        had = _read_stamp()
        missing = [image for image in ALL if had.get(image) != wanted[image]]
        if not missing:
            say("images: up to date")
            return
        if BASE not in had or any(image != PAUSE for image in missing):
            _build_base()
        for image in missing:
            started = time.monotonic()
            say(f"images: building {image}")
            _build_pause() if image == PAUSE else _build_from_dockerfile(image)
            built = time.monotonic()
            _store(image)
            say(
                f"images: {image} built in {built - started:.0f} s, "
                f"stored in {time.monotonic() - built:.0f} s"
            )
            had[image] = wanted[image]
            _STAMP.write_text(json.dumps(had))
        # What no image stands on any more: gigabytes with each change of the trainer's pins. The
        # stages that made today's go too, and cost seconds to make again.
        run(*_buildah("rmi", "--prune"))


def built_at() -> float:
    """When the store last changed, in seconds since the epoch; a node's copy may be older."""
    return _STAMP.stat().st_mtime


@contextmanager
def _alone() -> Iterator[None]:
    """One build at a time: a second one waits, and finds it done."""
    with (IMAGES / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_stamp() -> dict[str, str]:
    if not _STAMP.exists() or not IMAGE_STORE.is_dir():
        return {}
    return dict(json.loads(_STAMP.read_text()))


def _digest(image: str) -> str:
    """Digest of all that an image is made from."""
    digest = hashlib.sha256()
    if image == PAUSE:
        digest.update(_pause_source().read_bytes())
        return digest.hexdigest()
    for path in _source_files():
        digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _source_files() -> Iterator[Path]:
    yield from (REPOSITORY / name for name in _SOURCES)
    for folder in _SOURCE_FOLDERS:
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _buildah(*arguments: str | Path) -> list[str | Path]:
    storage = IMAGES / "buildah"
    return [
        "buildah",
        *("--root", storage / "root", "--runroot", storage / "run", "--storage-driver", "overlay"),
        *arguments,
    ]


def _build_base() -> None:
    """Make Debian with its Python, once; its mounts go with a namespace of their own."""
    if run(*_buildah("images", "--quiet", "--filter", f"reference={BASE}")).strip():
        return
    say("images: bootstrapping a base from Debian's packages")
    log = IMAGES / "base.log"
    root = IMAGES / "base"
    shutil.rmtree(root, ignore_errors=True)
    bootstrap: list[str | Path] = [
        "debootstrap",
        "--variant=minbase",
        f"--include={_BASE_PACKAGES}",
        "bookworm",
    ]
    run_logged("base", log, ["unshare", "--mount", *bootstrap, root])
    for cached in (root / "var/cache/apt/archives").glob("*.deb"):
        cached.unlink()
    _commit(root, BASE, log)
    shutil.rmtree(root)


def _build_pause() -> None:
    root = IMAGES / "pause"
    root.mkdir(exist_ok=True)
    log = IMAGES / "pause.log"
    compiler: list[str | Path] = [
        "gcc",
        "-static",
        "-Os",
        "-Wall",
        "-Wextra",
        "-s",
        _pause_source(),
    ]
    run_logged("pause", log, [*compiler, "-o", root / "pause"])
    _commit(root, PAUSE, log, "--entrypoint", '["/pause"]')
    shutil.rmtree(root)


def _pause_source() -> Path:
    return Path(__file__).with_name("pause.c")


def _commit(root: Path, image: str, log: Path, *config: str) -> None:
    """Make an image of a folder."""
    container = run(*_buildah("from", "scratch")).strip()
    try:
        run_logged(image, log, _buildah("copy", "--quiet", container, f"{root}/", "/"))
        if config:
            run_logged(image, log, _buildah("config", *config, container))
        run_logged(image, log, _buildah("commit", "--quiet", container, image))
    finally:
        run(*_buildah("rm", container))


def _build_from_dockerfile(image: str) -> None:
    kind = "operator" if image == OPERATOR else "trainer"
    command = _buildah("build", "--isolation", "chroot", "--layers", "--network", "host")
    if _AUTHORITIES.exists():
        # What this machine trusts (a company's proxy, for example) is lent for the build alone.
        command += ["--volume", f"{_AUTHORITIES}:{_AUTHORITIES}:ro"]
    command += ["--build-arg", f"BASE={BASE}", "--file", REPOSITORY / f"Dockerfile.{kind}"]
    run_logged(image, IMAGES / f"{kind}.log", [*command, "--tag", image, REPOSITORY])


def _store(image: str) -> None:
    """Move an image from the builder's storage into the store that nodes start from."""
    tag = image.rpartition("/")[2].replace(":", "-")
    log = IMAGES / "store.log"
    push = _buildah("push", "--quiet", image, f"oci:{LAYOUT}:{tag}")
    run_logged(image, log, push, os.environ | {"TMPDIR": str(IMAGES)})
    store(image, tag, log)
