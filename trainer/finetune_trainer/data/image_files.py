"""Where a data set's images lie: folders of classes, and files that rows name.

Used by ``sources``, ``readers`` and ``image_rows``. An image beside its rows is read once: what is
decoded is what was digested.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.markers import Digest
from finetune_trainer.data.cleaning import NO_IMAGE, TOO_LARGE
from finetune_trainer.data.images import MOST_BYTES
from finetune_trainer.errors import DataError

METADATA = "metadata"
"""How a file of rows is called that names the images beside it (Hugging Face's imagefolder)."""

_LONGEST_NAME = 253


def class_files(folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """The files of a folder of classes: each path in it, and its class, the first folder's name.

    As torchvision's ImageFolder has it, but that every file counts: what is no image is found out
    and named, not passed over. Names that begin with a dot are passed over.

    Raises
    ------
    DataError
        If there is no class, one without a file, or a name that is no text.
    """
    classes = sorted(one for one in folder.iterdir() if one.is_dir() and not _is_hidden(one))
    if not classes:
        raise DataError(
            f"{name}: neither rows nor a folder for each class in this folder; write images to "
            "CLASS/FILE, or name them in metadata.csv"
        )
    for one in classes:
        files = sorted(
            path
            for path in one.rglob("*")
            if path.is_file() and not any(map(_is_hidden, (path, *_between(path, one))))
        )
        if not files:
            raise DataError(f"{name}: class {one.name!r} has no file; add images, or remove it")
        for path in files:
            within = path.relative_to(folder).as_posix()
            if not _is_unicode(within):
                raise DataError(
                    f"{name}: a name is not UTF-8 ({within!a}); rename it, for rows are "
                    "called by their paths"
                )
            yield within, one.name


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_classes(folder: Path) -> bool:
    """Whether a folder has folders of its own."""
    return any(one.is_dir() and not _is_hidden(one) for one in folder.iterdir())


def _between(path: Path, folder: Path) -> list[Path]:
    return [parent for parent in path.parents if parent.is_relative_to(folder) and parent != folder]


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def row_name(path: str) -> str:
    """A path as the name of a row: of a long one its end."""
    return path if len(path) <= _LONGEST_NAME else f"…{path[-(_LONGEST_NAME - 1) :]}"


@dataclass(frozen=True)
class ImageFiles:
    """Files below ``folder``; no path leads out of ``root``, by whatever links.

    ``folder`` is None where rows came over the network, and no path can be followed. Every file
    that is opened is noted in the digest, in the order of the rows.
    """

    folder: Path | None
    root: Path | None
    seen: Any = field(default_factory=hashlib.sha256)  # hashlib's objects have no public type

    def open(self, relative: str, where: str) -> bytes | str:
        """The bytes of a file, or by a name of ``cleaning`` why there are none.

        Raises
        ------
        DataError
            If the path leads out of the data, or can't be followed.
        OSError
            If the disk fails.
        """
        if self.folder is None or self.root is None:
            raise DataError(
                f"{where}: names a file, and paths can't be followed over the network; put the "
                "images' bytes into the rows, or all of it onto a claim"
            )
        path = self.folder / relative
        if "\0" in relative or not path.resolve().is_relative_to(self.root.resolve()):
            raise DataError(
                f"{where}: the image's path leads out of the data's folder; name files within it"
            )
        content = _content(path)
        told = content if isinstance(content, str) else hashlib.sha256(content).hexdigest()
        self.seen.update(f"{relative}\0{told}\n".encode())
        return content

    def digest(self) -> Digest:
        """Of all that was opened so far."""
        return f"sha256:{self.seen.hexdigest()}"


def _content(path: Path) -> bytes | str:
    try:
        if not path.is_file():
            return NO_IMAGE
        if path.stat().st_size > MOST_BYTES:
            return TOO_LARGE
        return path.read_bytes()
    except FileNotFoundError:
        return NO_IMAGE
