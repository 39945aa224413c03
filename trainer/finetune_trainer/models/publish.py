"""Copies an export to where the job names, whole or not at all.

``prepare`` asks ``check_output`` before anything is held, and the evaluate step calls ``publish``
at its end. In an object store the manifest is written last and removed first: without it, what lies
there is no model. To the Hugging Face Hub it goes as one commit (``hub_publish``).
"""

import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer import hub
from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.models import hub_publish
from finetune_trainer.models.export import MANIFEST, ExportManifest
from finetune_trainer.objectstore import open_s3, told_plainly

_log = logging.getLogger(__name__)

UNFINISHED = ".unfinished"
"""Lies in the prefix while an export is being copied there, so that another try may clear it."""
_FIELD = "output.uri"


def check_output(uri: str) -> None:
    """See that the prefix may be written, and that nobody's files lie there.

    Raises
    ------
    DataError
        If it may not be written, or holds what is no earlier export.
    StorageError
        If the store or the network fails.
    """
    if uri.startswith(hub.SCHEME):
        hub_publish.check(uri)
        return
    with told_plainly(f"{_FIELD}: {uri}", "written"):
        store = open_s3()
        there = _there(store, uri)
        _earlier(store, uri, there)
        if UNFINISHED not in there:
            store.pipe_file(f"{uri}/{UNFINISHED}", b"")
            store.rm_file(f"{uri}/{UNFINISHED}")


def publish(folder: Path, uri: str) -> None:
    """Copy the export in ``folder`` to ``uri``; nothing is done where it lies there whole.

    Raises
    ------
    DataError
        If the store refuses, or holds what is no earlier export.
    StorageError
        If the store, the network or the workspace fails; another attempt copies all of it anew.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise StorageError(f"{folder}: can't read the exported model ({error})") from error
    sizes = {file.path: file.size for file in ExportManifest.model_validate_json(content).files}
    if uri.startswith(hub.SCHEME):
        hub_publish.publish(folder, uri, (*sizes, MANIFEST))
        return
    where = f"{_FIELD}: {uri}"
    with told_plainly(where, "written"):
        store = open_s3()
        there = _there(store, uri)
        if _is_whole(store, uri, there, sizes, content):
            _log.info("the model lies at %s already", uri)
            return
        earlier = _earlier(store, uri, there)
        store.pipe_file(f"{uri}/{UNFINISHED}", b"")
        for path in earlier:
            store.rm_file(f"{uri}/{path}")
        for path, size in sizes.items():
            store.put_file(str(folder / path), f"{uri}/{path}")
            written = store.info(f"{uri}/{path}")["size"]
            if written != size:
                raise StorageError(f"{where}/{path}: {written} bytes arrived of {size}")
        store.pipe_file(f"{uri}/{MANIFEST}", content)
        store.rm_file(f"{uri}/{UNFINISHED}")
    _log.info("copied the model to %s", uri)


def _there(store: Any, uri: str) -> dict[str, int]:  # fsspec publishes no types
    """Sizes of what lies at the prefix, by path relative to it."""
    root = uri.removeprefix("s3://")
    found = store.find(uri, detail=True)
    return {path.removeprefix(f"{root}/"): int(info["size"]) for path, info in found.items()}


def _is_whole(
    store: Any, uri: str, there: dict[str, int], sizes: dict[str, int], content: bytes
) -> bool:
    whole = MANIFEST in there and all(there.get(path) == size for path, size in sizes.items())
    return whole and UNFINISHED not in there and store.cat_file(f"{uri}/{MANIFEST}") == content


def _earlier(store: Any, uri: str, there: dict[str, int]) -> list[str]:
    """Files of an earlier export, its manifest first: without it, the others are no model.

    Of a copy that was cut off, that is all there is. Anybody else's files are refused.
    """
    if UNFINISHED in there:
        return sorted(there.keys() - {UNFINISHED}, key=lambda path: path != MANIFEST)
    named: set[str] = set()
    if MANIFEST in there:
        try:
            listed = ExportManifest.model_validate_json(store.cat_file(f"{uri}/{MANIFEST}"))
        except ValidationError:
            pass
        else:
            named = {file.path for file in listed.files} | {MANIFEST}
    if others := there.keys() - named:
        raise DataError(
            f"{_FIELD}: {uri}: {len(others)} files lie there that are of no earlier export; name "
            "an empty prefix"
        )
    return sorted(there, key=lambda path: path != MANIFEST)
