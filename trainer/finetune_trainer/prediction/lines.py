"""The lines of a JSONL file as rows or as what is wrong with them, in windows of bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from finetune_trainer.data.readers import json_object
from finetune_trainer.data.values import ROW_LIMIT_BYTES, Values, too_long
from finetune_trainer.errors import DataError

WINDOW_ROWS = 4096
WINDOW_BYTES = 16 << 20


@dataclass(frozen=True)
class Line:
    """A line by its number: a row, or the reason why it is none."""

    number: int
    values: Values
    error: str | None = None

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"line {self.number}"


def read_windows(file: BinaryIO) -> Iterator[list[Line]]:
    """The file's lines but for empty ones, so many at once as are bounded in number and in bytes.

    Raises
    ------
    OSError
        If the file can't be read.
    """
    window: list[Line] = []
    size = 0
    for number, content in _lines(file):
        if content is not None and not content.strip():
            continue
        window.append(_line(number, content))
        size += len(content or b"")
        if len(window) >= WINDOW_ROWS or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None for one beyond the limit of a row, which is passed over."""
    number = 0
    while line := file.readline(ROW_LIMIT_BYTES + 1):
        number += 1
        if len(line) <= ROW_LIMIT_BYTES:
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(ROW_LIMIT_BYTES)
        yield number, None


def _line(number: int, content: bytes | None) -> Line:
    where = f"line {number}"
    try:
        if content is None:
            raise too_long(where)
        text = content.decode("utf-8-sig" if number == 1 else "utf-8")
        return Line(number, json_object(text, where))
    except UnicodeDecodeError:
        return Line(number, {}, f"{where}: not UTF-8; save the file as UTF-8")
    except DataError as error:
        return Line(number, {}, str(error))
