"""What a job reads from this machine: where it lies, and whether it is still the same.

The engine notes fingerprints before the first step and compares them when a run is taken up again:
rows that change under a half-trained model would make its numbers mean nothing.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from finetune_api.job import FineTuneJob
from finetune_api.markers import Contract, Digest

_WHOLE_FILE_BYTES = 64 * 1024 * 1024
"""In a model's folder larger files (weights) count by name and size alone."""


class SourceFingerprint(Contract):
    """A file's or folder's state. Where times and sizes are as before, bytes aren't read again."""

    path: str
    stamp: str
    digest: Digest


class SourceMissingError(Exception):
    """A path of the manifest leads nowhere; the message names the field, the path and the fix."""


def local_path(uri: str, base: Path, claims: Path) -> Path | None:
    """Where a URI of the manifest lies on this machine; None for what is fetched."""
    if uri.startswith("pvc://"):
        return claims / uri.removeprefix("pvc://")
    return None if "://" in uri else base / uri


def fingerprints(
    job: FineTuneJob, base: Path, claims: Path, known: dict[str, SourceFingerprint]
) -> dict[str, SourceFingerprint]:
    """The fingerprint of each local source, by its field in the manifest.

    Raises
    ------
    SourceMissingError
        With one line for each path that leads nowhere.
    """
    sources = {
        "spec.model.uri": job.spec.model.uri,
        "spec.dataset.train": job.spec.dataset.train,
        "spec.dataset.test": job.spec.dataset.test,
    }
    found: dict[str, SourceFingerprint] = {}
    missing: list[str] = []
    for field, uri in sources.items():
        path = None if uri is None else local_path(uri, base, claims)
        if path is None:
            continue
        if not path.exists():
            missing.append(_missing(field, str(uri), path, base))
            continue
        found[field] = _fingerprint(path, known.get(field), whole=field != "spec.model.uri")
    if missing:
        raise SourceMissingError("\n".join(missing))
    return found


def changed(
    before: dict[str, SourceFingerprint], after: dict[str, SourceFingerprint]
) -> Iterator[str]:
    """The fields whose sources differ from what they were."""
    for field, then in before.items():
        if field in after and after[field].digest != then.digest:
            yield f"{field}: {after[field].path} is not what it was when the run began"


def _missing(field: str, uri: str, path: Path, base: Path) -> str:
    if uri.startswith("pvc://"):
        return (
            f"{field}: {uri} would be {path}, which does not exist: put the file there, or a link "
            "to it"
        )
    hint = ""
    if uri.startswith("~"):
        hint = "; ~ means nothing here, write the whole path"
    elif field == "spec.model.uri":
        hint = "; a model of the Hugging Face Hub is hf://OWNER/NAME@COMMIT"
    return f"{field}: {path} does not exist (relative paths start at {base}){hint}"


def _fingerprint(path: Path, known: SourceFingerprint | None, *, whole: bool) -> SourceFingerprint:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    stamp = hashlib.sha256()
    for file in files:
        stat = file.stat()
        stamp.update(
            f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape")
        )
    if known is not None and known.stamp == stamp.hexdigest():
        return known
    content = hashlib.sha256()
    for file in files:
        name = "" if file == path else str(file.relative_to(path))
        size = file.stat().st_size
        content.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        if whole or size <= _WHOLE_FILE_BYTES:
            with file.open("rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
    return SourceFingerprint(
        path=str(path), stamp=stamp.hexdigest(), digest=f"sha256:{content.hexdigest()}"
    )
