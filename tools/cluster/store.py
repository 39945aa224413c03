"""Moves images from the builder into the store that nodes start from, each layer once.

Between the two lies an OCI layout. Of gigabytes that the store has already nothing is written
again: their files are shared with it.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.cluster.containers import imported
from tools.cluster.place import IMAGE_STORE, IMAGES

LAYOUT = IMAGES / "layout"
"""Where the builder pushes to, as `oci:LAYOUT:NAME`."""
_BLOBS = Path("blobs/sha256")
_STORED = IMAGE_STORE / "io.containerd.content.v1.content" / _BLOBS
_REFERENCE = "org.opencontainers.image.ref.name"
_NAME = "io.containerd.image.name"
# Below this a second copy costs less than looking for the first.
_SHARED_BYTES = 1 << 20

# A descriptor, manifest or index of the OCI image specification.
_Json = dict[str, Any]


def store(image: str, tag: str, log: Path) -> None:
    """Bring an image that lies in the layout under a tag into the store, by its own name."""
    entries = _forget_replaced()
    entry = next(one for one in entries if one["annotations"][_REFERENCE] == tag)
    named = {**entry, "annotations": {_NAME: image}}
    archive = IMAGES / "archive.tar"
    try:
        _write_archive(archive, {"schemaVersion": 2, "manifests": [named]}, list(_blobs(entry)))
        imported(archive, log)
    finally:
        archive.unlink(missing_ok=True)
    for digest in _blobs(entry):
        _share(digest)


def _forget_replaced() -> list[_Json]:
    """Remove images whose name a newer one has taken, and return what is left of the index."""
    path = LAYOUT / "index.json"
    index: _Json = json.loads(path.read_text())
    named: list[_Json] = [
        one for one in index["manifests"] if _REFERENCE in one.get("annotations", {})
    ]
    path.write_text(json.dumps({**index, "manifests": named}))
    needed = {digest for entry in named for digest in _blobs(entry)}
    for blob in (LAYOUT / _BLOBS).iterdir():
        if blob.name not in needed:
            blob.unlink()
    return named


def _blobs(entry: _Json) -> Iterator[str]:
    """Digests of all that an image is made of, its manifest among them."""
    yield _hex(entry)
    manifest: _Json = json.loads((LAYOUT / _BLOBS / _hex(entry)).read_text())
    yield _hex(manifest["config"])
    yield from map(_hex, manifest["layers"])


def _hex(descriptor: _Json) -> str:
    return str(descriptor["digest"]).removeprefix("sha256:")


def _write_archive(path: Path, index: _Json, digests: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", {"imageLayoutVersion": "1.0.0"})
        _add(archive, "index.json", index)
        for digest in dict.fromkeys(digests):
            blob = LAYOUT / _BLOBS / digest
            if not (_is_large(blob) and (_STORED / digest).exists()):
                archive.add(blob, str(_BLOBS / digest))


def _add(archive: tarfile.TarFile, name: str, content: _Json) -> None:
    data = json.dumps(content).encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _share(digest: str) -> None:
    """Let layout and store have one file of a large layer."""
    ours, theirs = LAYOUT / _BLOBS / digest, _STORED / digest
    if _is_large(ours) and not ours.samefile(theirs):
        ours.unlink()
        os.link(theirs, ours)


def _is_large(blob: Path) -> bool:
    return blob.stat().st_size >= _SHARED_BYTES
