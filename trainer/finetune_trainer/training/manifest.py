"""What makes a checkpoint exist: its COMPLETE manifest, written last. No torch.

Ranks write through ``checkpoints``; the launcher reads here whether training was finished before.
A folder without its manifest, or whose files are not those that the manifest names, is no
checkpoint.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from finetune_api.markers import Contract, Digest, ShortText
from finetune_api.report import CurvePoint, Overfitting, TrainResult
from finetune_api.run import CHECKPOINT_MANIFEST
from finetune_trainer.training.health import HealthState


class Best(Contract):
    """The checkpoint with the least loss on the select rows so far; ``path`` in the workspace."""

    attempt: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=0)]
    select_loss: float
    path: ShortText


class TrainingState(Contract):
    """What training knows at a step beside weights, optimizer, schedule and random numbers."""

    step: Annotated[int, Field(ge=0)] = 0
    loss: float | None = None
    evaluated: Annotated[
        bool, Field(description="Whether the select rows were scored after this step.")
    ] = False
    best: Best | None = None
    evaluations_without_better: Annotated[int, Field(ge=0)] = 0
    health: HealthState = HealthState()
    overfitting: Overfitting | None = None
    curve: Annotated[tuple[CurvePoint, ...], Field(max_length=60)] = ()
    curve_stride: Annotated[int, Field(ge=1)] = 1


class Identity(Contract):
    """Whose a checkpoint is (by both digests), and how many ranks wrote it."""

    spec_digest: Digest
    split_digest: Digest
    world_size: Annotated[int, Field(ge=1)]


class FileDigest(Contract):
    """One file of a checkpoint; ``path`` within its folder."""

    path: str
    size: int
    sha256: str


class Manifest(Contract):
    """The COMPLETE file."""

    version: Literal[1] = 1
    attempt: Annotated[int, Field(ge=1)]
    identity: Identity
    state: TrainingState
    files: tuple[FileDigest, ...]
    result: Annotated[
        TrainResult | None, Field(description="Set in the checkpoint that ends the training.")
    ] = None


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a manifest; its files are not checked yet."""

    folder: Path
    manifest: Manifest

    @property
    def age(self) -> tuple[int, int]:
        """Sorts by time: a later attempt is newer, even where it began at an earlier step."""
        return self.manifest.attempt, self.manifest.state.step


def complete_checkpoints(root: Path) -> list[Checkpoint]:
    """The checkpoints below ``root`` (``<attempt>/<step>/``) that have a manifest, newest first."""
    found = [
        Checkpoint(folder, manifest)
        for folder in step_folders(root)
        if (manifest := read_manifest(folder)) is not None
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.age, reverse=True)


def step_folders(root: Path) -> Iterator[Path]:
    """Every folder ``<attempt>/<step>/`` below ``root``, complete or not."""
    if not root.is_dir():
        return
    for attempt in sorted(root.iterdir()):
        if attempt.name.isdecimal() and attempt.is_dir():
            yield from (step for step in sorted(attempt.iterdir()) if step.name.isdecimal())


def read_manifest(folder: Path) -> Manifest | None:
    """The folder's manifest, or None if it has none that can be read."""
    try:
        return Manifest.model_validate_json((folder / CHECKPOINT_MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint's files, or None if they are as they were written.

    Raises ``OSError`` if a file is there but can't be read: that may pass.
    """
    folder, expected = checkpoint.folder, checkpoint.manifest.files
    for file in expected:
        path = folder / file.path
        if not path.is_file():
            return f"{file.path} is missing"
        if path.stat().st_size != file.size:
            return f"{file.path} has {path.stat().st_size} bytes instead of {file.size}"
    found = digest_files(folder, [file.path for file in expected])
    changed = [a.path for a, b in zip(expected, found, strict=True) if a.sha256 != b.sha256]
    return f"{changed[0]} is not what was written (its SHA-256 differs)" if changed else None


def files_of(folder: Path) -> list[str]:
    """Paths of a checkpoint's files within its folder, sorted, the manifest aside."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != CHECKPOINT_MANIFEST)


def digest_files(folder: Path, paths: Iterable[str]) -> Iterator[FileDigest]:
    """Size and SHA-256 of each file, in the order asked. Hashing runs beside the interpreter."""

    def digest(path: str) -> FileDigest:
        with (folder / path).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return FileDigest(path=path, size=os.fstat(file.fileno()).st_size, sha256=sha256)

    with ThreadPoolExecutor(max_workers=4) as pool:
        yield from pool.map(digest, paths)


def write_durably(path: Path, content: bytes) -> None:
    """Put a whole file in place, or leave what was there; either survives a power cut."""
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
