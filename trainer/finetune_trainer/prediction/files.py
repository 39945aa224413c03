"""Where rows come from and where answers go: files, or what a shell puts in their place.

``command`` calls it. What can't work is refused before a model is loaded, and nothing that was
there is lost: answers replace no rows, no device, no pipe, and a link stays one.
"""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, TextIO

from finetune_trainer.errors import StorageError, UsageError

STANDARD = Path("-")
"""Standard input, or standard output."""


def check_files(source: Path, target: Path) -> None:
    """Refuse rows that are not there, and answers that have no place.

    Raises
    ------
    UsageError
        If rows or answers name no file, or both the same one.
    StorageError
        If the folder for the answers isn't there.
    """
    rows = _state(source, sys.stdin)
    if rows is None or stat.S_ISDIR(rows.st_mode):
        raise UsageError(f"{source}: no such file; it must hold a JSON object in each line")
    answers = _state(target, sys.stdout)
    if answers is None:
        if not _followed(target).parent.is_dir():
            raise StorageError(f"{target}: no such folder; make it, or name a file elsewhere")
        return
    if stat.S_ISDIR(answers.st_mode):
        raise UsageError(f"{target}: is a folder; name a file for the answers")
    if stat.S_ISREG(rows.st_mode) and os.path.samestat(rows, answers):
        raise UsageError(
            f"{target}: holds the rows that are asked, which would be lost; name another file for "
            "the answers"
        )


def is_standard_output(target: Path) -> bool:
    """Whether answers go where the process's own words would go, by whatever name."""
    if target == STANDARD:
        return True
    named, standard = _state(target, sys.stdout), _state(STANDARD, sys.stdout)
    return named is not None and standard is not None and os.path.samestat(named, standard)


def opened(source: Path) -> AbstractContextManager[BinaryIO]:
    """The rows, to be read once."""
    return nullcontext(sys.stdin.buffer) if source == STANDARD else source.open("rb")


@contextmanager
def written(target: Path) -> Iterator[TextIO]:
    """Where the answers are written; a file appears whole under its name, or not at all."""
    if is_standard_output(target):
        with open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False) as stream:
            yield stream
        return
    whole = _followed(target)
    if whole.exists() and not whole.is_file():
        with whole.open("w", encoding="utf-8") as stream:
            yield stream
        return
    unfinished = whole.with_name(f".{whole.name}.partial")
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            yield stream
        unfinished.replace(whole)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _followed(target: Path) -> Path:
    """What a link leads to, or the path itself: a loop of links is replaced as it stands."""
    try:
        return target.resolve() if target.is_symlink() else target
    except (OSError, RuntimeError):
        return target


def _state(path: Path, standard: TextIO) -> os.stat_result | None:
    try:
        return os.fstat(standard.fileno()) if path == STANDARD else path.stat()
    except (OSError, ValueError):
        return None
