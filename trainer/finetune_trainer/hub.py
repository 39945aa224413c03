"""The Hugging Face Hub: one way to ask it, and models and files of rows from it, at a commit each.

``prepare`` fetches; whatever comes later reads the workspace. ``models.hub_publish`` writes. Who
may do so is found where the hub's own client finds it: ``HF_TOKEN``, and ``HF_ENDPOINT`` for a
mirror.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.errors import DataError, StorageError, TrainerError, UsageError

SCHEME = "hf://"
_FORM = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<repository>[\w.-]+/[\w.-]+)@(?P<commit>[0-9a-f]{40})"
    r"(?:/(?P<path>.+))?"
)
_WANTED = (".safetensors", ".json", ".txt", ".model", ".jinja", "README.md")
"""Endings of what a model is loaded from, and its card for the licence. No pickles, and no code."""
_DOUBLES = "consolidated"
"""How some publishers call a second copy of the weights, in a form of their own."""
_TOO_MANY_REQUESTS = 429


@dataclass(frozen=True, kw_only=True)
class HubPath:
    """A repository at a commit, and of a dataset the file in it."""

    repository: str
    kind: str
    commit: str
    path: str | None

    @classmethod
    def of(cls, uri: str, field: str) -> "HubPath":
        """Take a URI apart.

        Raises
        ------
        UsageError
            If it has not the form that ``field`` of the manifest asks for.
        """
        found = _FORM.fullmatch(uri)
        kind = "model" if field == "model.uri" else "dataset"
        whole = kind == "model"
        if (
            found is None
            or (found["datasets"] is None) != whole
            or (found["path"] is None) != whole
            # Joined to a folder here, it could lead out of it.
            or not {"", ".", ".."}.isdisjoint((found["path"] or "file").split("/"))
        ):
            raise UsageError(f"{field}: {uri!r} must have the form {_EXPECTED[kind]}")
        return cls(
            repository=found["repository"], kind=kind, commit=found["commit"], path=found["path"]
        )


_EXPECTED = {
    "model": "hf://OWNER/NAME@COMMIT, with the 40 digits of a commit",
    "dataset": "hf://datasets/OWNER/NAME@COMMIT/FILE, with the 40 digits of a commit",
}


def fetch_file(uri: str, field: str, target: Path) -> None:
    """Bring a dataset's file to ``target``.

    Raises
    ------
    DataError
        If it isn't there, or may not be read.
    UsageError
        If the URI has another form.
    StorageError
        If the hub or the network fails; another attempt may help.
    """
    place = HubPath.of(uri, field)
    assert place.path is not None
    with asking(f"{field}: {uri}") as hub:
        came = hub.hf_hub_download(
            place.repository,
            place.path,
            repo_type=place.kind,
            revision=place.commit,
            local_dir=target.parent / f".{target.name}",
        )
        Path(came).replace(target)


def fetch_model(uri: str, folder: Path) -> None:
    """Bring a model's files to ``folder``; what is there already is not fetched again.

    Large files are compared with the digests that the hub has of them.

    Raises
    ------
    DataError, UsageError, StorageError
        As ``fetch_file`` does; DataError too if it has no weights in safetensors.
    """
    place = HubPath.of(uri, "model.uri")
    where = f"model.uri: {uri}"
    with asking(where) as hub:
        listed = hub.list_repo_tree(place.repository, revision=place.commit, repo_type=place.kind)
        files = [one for one in listed if _is_wanted(one)]
        if not any(one.path.endswith(".safetensors") for one in files):
            raise DataError(
                f"{where}: it has no weights in safetensors, and others are not loaded; name a "
                "commit that has them"
            )
        for one in files:
            came = hub.hf_hub_download(
                place.repository,
                one.path,
                repo_type=place.kind,
                revision=place.commit,
                local_dir=folder,
            )
            if one.lfs is not None and _sha256(Path(came)) != one.lfs.sha256:
                Path(came).unlink()
                raise StorageError(f"{where}: {one.path} came with other bytes than the hub has")


def _is_wanted(entry: Any) -> bool:  # a file or a folder of the listing
    from huggingface_hub import RepoFile

    return (
        isinstance(entry, RepoFile)
        and entry.path.endswith(_WANTED)
        and not entry.path.startswith(_DOUBLES)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def asking(where: str) -> Iterator[Any]:
    """The hub's client, which only answers in here, and its refusals in plain words.

    Parameters
    ----------
    where
        Field and address.

    Raises
    ------
    DataError
        If the hub refuses, or what was asked for isn't there: trying again doesn't help.
    StorageError
        If the hub or the network fails; another attempt may help.
    """
    import httpx2
    from huggingface_hub import HfApi, constants, errors

    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET
    # Every other step has to find all that it needs on disk. Xet is a protocol beside HTTP, with a
    # cache of its own in the user's folder.
    constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    except errors.GatedRepoError as error:
        raise DataError(
            f"{where}: its owner asks for consent to its terms: give it on the hub, and a token "
            "of that account as HF_TOKEN in the Secret of credentials.secretName"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DataError(
            f"{where}: there is no such repository, or HF_TOKEN (a key of the Secret of "
            "credentials.secretName) does not open it"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DataError(f"{where}: the repository has no such commit") from error
    except errors.RemoteEntryNotFoundError as error:
        raise DataError(f"{where}: there is no such file at that commit") from error
    except errors.HfHubHTTPError as error:
        raise _answered(where, error.response.status_code) from error
    except errors.LocalEntryNotFoundError as error:
        # What a file's address answered stands behind it, if it did.
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _answered(where, error.__cause__.response.status_code) from error
        raise StorageError(f"{where}: can't be fetched") from error
    except httpx2.HTTPError as error:
        raise StorageError(f"{where}: can't be fetched ({type(error).__name__})") from error
    finally:
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = before


def _answered(where: str, status: int) -> TrainerError:
    """What an HTTP status means that the client has no error of its own for."""
    if status >= 500 or status == _TOO_MANY_REQUESTS:
        return StorageError(f"{where}: the hub answered {status}")
    if status in {401, 403}:
        return DataError(f"{where}: HF_TOKEN is not allowed to do this")
    return DataError(f"{where}: the hub answered {status}")
