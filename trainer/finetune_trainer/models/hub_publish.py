"""Puts an export into a repository of the Hugging Face Hub, as one commit. Used by ``publish``.

The commit adds the export's files and removes those of an earlier one, so that the repository never
holds a mixture.
"""

import logging
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finetune_trainer import hub
from finetune_trainer.errors import DataError
from finetune_trainer.models.export import MANIFEST, ExportManifest

_log = logging.getLogger(__name__)

_FIELD = "output.uri"
_BRANCH = "main"
_MADE_WITH_A_REPOSITORY = frozenset({".gitattributes", "README.md"})


def check(uri: str) -> None:
    """See that the repository is there, may be written, and holds nobody's files.

    Raises
    ------
    DataError, StorageError
        As ``publish.check_output`` does.
    """
    repository = uri.removeprefix(hub.SCHEME)
    with hub.asking(f"{_FIELD}: {uri}") as client:
        client.auth_check(repository, write=True)
        _earlier(client, uri, repository)


def publish(folder: Path, uri: str, files: Collection[str]) -> None:
    """Commit an export's files; nothing is done where the same lie there.

    Parameters
    ----------
    folder
        The export.
    uri
        ``hf://OWNER/NAME``.
    files
        Paths of its files, relative to ``folder``, its manifest among them.

    Raises
    ------
    DataError, StorageError
        As ``publish.publish`` does.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    repository = uri.removeprefix(hub.SCHEME)
    with hub.asking(f"{_FIELD}: {uri}") as client:
        earlier, manifest = _earlier(client, uri, repository)
        if earlier == set(files) and manifest == (folder / MANIFEST).read_bytes():
            _log.info("the model lies at %s already", uri)
            return
        operations = [
            *(CommitOperationDelete(path) for path in sorted(earlier - set(files))),
            *(CommitOperationAdd(path, folder / path) for path in files),
        ]
        made = client.create_commit(
            repository, operations, commit_message="Fine-tuned model", revision=_BRANCH
        )
    _log.info("committed the model to %s as %s", uri, made.oid)


def _earlier(client: Any, uri: str, repository: str) -> tuple[set[str], bytes | None]:
    """Files of an earlier export and its manifest's bytes; anybody else's files are refused."""
    from huggingface_hub import RepoFile

    listed = client.list_repo_tree(repository, revision=_BRANCH, recursive=True)
    there = {one.path for one in listed if isinstance(one, RepoFile)}
    named: set[str] = set()
    content = None
    if MANIFEST in there:
        content = _read(client, repository, MANIFEST)
        try:
            files = ExportManifest.model_validate_json(content).files
        except ValidationError:
            pass
        else:
            named = {file.path for file in files} | {MANIFEST}
    if others := there - named - _MADE_WITH_A_REPOSITORY:
        raise DataError(
            f"{_FIELD}: {uri}: {len(others)} files lie there that are of no earlier export; name "
            "an empty repository"
        )
    return there & named, content


def _read(client: Any, repository: str, path: str) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        came = client.hf_hub_download(repository, path, revision=_BRANCH, local_dir=scratch)
        return Path(came).read_bytes()
