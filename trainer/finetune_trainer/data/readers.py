"""Reads rows from CSV, JSONL, Parquet and CoNLL files and folders of classes, one at a time.

Memory is bounded.

Used by the prepare step. Whatever a file may hold ends as a row or as one ``DataError`` that says
which file, which row, and what to do; never what stands in the row.
"""

import csv
import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from finetune_api.dataset import Columns, DataFormat
from finetune_api.notdone import not_done
from finetune_trainer.data.form import AnyForm, AnyRow
from finetune_trainer.data.image_files import class_files, row_name
from finetune_trainer.data.rows import Row
from finetune_trainer.data.values import (
    ROW_LIMIT_BYTES,
    Values,
    group_in,
    kind_of,
    name_in,
    too_long,
)
from finetune_trainer.errors import DataError

ENDINGS: Mapping[str, DataFormat] = {
    ".csv": DataFormat.CSV,
    ".jsonl": DataFormat.JSONL,
    ".ndjson": DataFormat.JSONL,
    ".parquet": DataFormat.PARQUET,
    ".conll": DataFormat.CONLL,
    ".bio": DataFormat.CONLL,
}

_COMPRESSED = {".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".tar", ".tgz"}

_DOCUMENT = "-DOCSTART-"
"""How CoNLL 2003 marks that a document begins; it is no word."""

_PARQUET_BATCH_ROWS = 256
_PARQUET_BATCH_IMAGES = 16
"""Images may take megabytes each."""

_FILE = "file"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """A file, or a folder of classes, and how to read it.

    ``prefix`` goes before row numbers that serve as ids; ``groups`` are columns of
    ``evaluation.groups``.
    """

    form: AnyForm
    path: Path
    name: str
    format: DataFormat
    columns: Columns
    prefix: str = ""
    groups: tuple[str, ...] = ()


def read_rows(source: RowSource) -> Iterator[AnyRow]:
    """Yield the rows of a file in order; ids are unique within it.

    Raises
    ------
    DataError
        At the first row that can't be read, or if there is no row.
    """
    if source.path.is_dir():
        yield from _read_classes(source)
        return
    readers = {
        DataFormat.CSV: _read_csv,
        DataFormat.JSONL: _read_jsonl,
        DataFormat.PARQUET: _read_parquet,
        DataFormat.CONLL: _read_conll,
    }
    if source.path.stat().st_size == 0:
        raise DataError(f"{source.name}: the file is empty; it must hold rows")
    number = 0
    for number, (place, values) in enumerate(readers[_format_of(source)](source), start=1):
        yield _row(source, number, place, values)
    if number == 0:
        raise DataError(f"{source.name}: no rows; add some (in CSV below the header)")


def _read_classes(source: RowSource) -> Iterator[AnyRow]:
    """A row for each file in the folder of its class; it is called by its path."""
    settings = source.form.columns(source.columns)
    if source.columns.model_copy(update={"image": None}) != Columns() or (
        source.format is not DataFormat.AUTO
    ):
        raise DataError(
            f"{source.name}: a folder of classes has no columns and no format; leave "
            "dataset.columns and dataset.format out, or name the images in metadata.csv"
        )
    if source.groups:
        raise DataError(
            f"{source.name}: a folder of classes has no column {source.groups[0]!r} "
            "(evaluation.groups[0]); name the images in metadata.csv, with this column beside them"
        )
    named = replace(source, columns=source.columns.model_copy(update={"id": _FILE}))
    for number, (path, label) in enumerate(class_files(source.path, source.name), start=1):
        values = {settings["image"]: path, settings["label"]: label, _FILE: row_name(path)}
        yield _row(named, number, path, values)


def read_files(sources: Sequence[RowSource]) -> Iterator[AnyRow]:
    """Yield the rows of all files in order.

    Raises
    ------
    DataError
        As ``read_rows``, and if an id column names two rows alike.
    """
    ids: set[str] = set()
    for source in sources:
        for row in read_rows(source):
            if row.id in ids:
                raise DataError(
                    f"{row.place}: id {row.id!r} names an earlier row too; ids must differ, or "
                    "leave dataset.columns.id out to number the rows"
                )
            ids.add(row.id)
            yield row


def _format_of(source: RowSource) -> DataFormat:
    if source.format is not DataFormat.AUTO:
        return source.format
    ending = Path(source.name).suffix.lower()
    if ending in _COMPRESSED:
        raise DataError(f"{source.name}: compressed files are not read; unpack it")
    try:
        return ENDINGS[ending]
    except KeyError:
        raise DataError(
            f"{source.name}: the ending tells no format; name it {', '.join(ENDINGS)}, or set "
            "dataset.format to csv, jsonl, parquet or conll"
        ) from None


def _row(source: RowSource, number: int, place: str, values: Values) -> AnyRow:
    columns = source.columns
    where = f"{source.name}: {place}"
    row_id = f"{source.prefix}{number}"
    if columns.id is not None:
        row_id = _required(values, columns.id, where, "dataset.columns.id")
    group = None
    if columns.group is not None:
        group = _required(values, columns.group, where, "dataset.columns.group")
    given, target = source.form.read(values, columns, where)
    groups = tuple(group_in(values, column, where) for column in source.groups)
    return Row(id=row_id, input=given, target=target, group=group, place=where, groups=groups)


def _required(values: Values, column: str, where: str, setting: str) -> str:
    name = name_in(values, column, where)
    if not name:
        raise DataError(
            f"{where}: column {column!r} is empty; fill it in every row, or leave {setting} out"
        )
    return name


@dataclass
class _Lines:
    """The lines of a UTF-8 file, decoded one by one; a row may take several.

    ``begin_row`` says that the next line starts a row. What a row takes is limited, so that neither
    an endless line nor an open quote is gathered whole.
    """

    file: BinaryIO
    name: str
    number: int = 0
    row_starts_at: int = 1
    offset: int = 0
    row_bytes: int = field(default=0, repr=False)

    def begin_row(self) -> None:
        self.row_starts_at = self.number + 1
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        while line := self.file.readline(ROW_LIMIT_BYTES + 1):
            self.number += 1
            self.row_bytes += len(line)
            if self.row_bytes > ROW_LIMIT_BYTES:
                raise too_long(f"{self.name}: the row at line {self.row_starts_at}")
            yield self._decode(line)
            self.offset += len(line)

    def _decode(self, line: bytes) -> str:
        if self.number == 1 and line.startswith(_UTF16_MARKS):
            raise DataError(f"{self.name}: encoded as UTF-16; save it as UTF-8")
        try:
            text = line.decode("utf-8-sig" if self.number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.name}: line {self.number}: not UTF-8 at byte {self.offset + error.start} "
                "of the file; save it as UTF-8"
            ) from None
        if "\0" in text:
            raise DataError(
                f"{self.name}: line {self.number}: holds a NUL byte; save it as UTF-8 text"
            )
        return text


def _read_csv(source: RowSource) -> Iterator[tuple[str, Values]]:
    csv.field_size_limit(ROW_LIMIT_BYTES)
    with source.path.open("rb") as file:
        lines = _Lines(file, source.name)
        reader = csv.reader(iter(lines), strict=True)
        header: list[str] | None = None
        number = 0
        while (fields := _next_csv_row(reader, lines)) is not None:
            if not fields:
                continue
            if header is None:
                header = [name.strip() for name in fields]
                _check_columns(source, header)
                continue
            number += 1
            place = f"row {number} (line {lines.row_starts_at})"
            if len(fields) != len(header):
                raise DataError(
                    f"{source.name}: {place}: {len(fields)} fields where the header has "
                    f"{len(header)}; quote fields that hold a comma"
                )
            yield place, dict(zip(header, fields, strict=True))


def _next_csv_row(reader: Iterator[list[str]], lines: _Lines) -> list[str] | None:
    lines.begin_row()
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(
            f"{lines.name}: the row at line {lines.row_starts_at}: not valid CSV ({error}); quote "
            'fields that hold a comma, a quote or a line break, and double the quotes in them ("")'
        ) from None


def _read_jsonl(source: RowSource) -> Iterator[tuple[str, Values]]:
    seen: dict[str, None] = {}
    with source.path.open("rb") as file:
        lines = _Lines(file, source.name)
        for line in lines:
            lines.begin_row()
            if not line.strip():
                continue
            place = f"line {lines.number}"
            values = json_object(line, f"{source.name}: {place}")
            seen.update(dict.fromkeys(values))
            yield place, values
    if seen:
        _check_columns(source, list(seen))


def json_object(line: str, where: str) -> dict[str, Any]:
    """A line's JSON object.

    Raises
    ------
    DataError
        If it holds something else; the message begins with ``where``.
    """
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos}); "
            "write one object per line"
        ) from None
    except (ValueError, RecursionError):
        raise DataError(f"{where}: JSON that can't be read; write one flat object") from None
    if not isinstance(values, dict):
        raise DataError(f"{where}: holds {kind_of(values)}; write one object per line")
    return values


def _read_parquet(source: RowSource) -> Iterator[tuple[str, Values]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    unreadable = DataError(
        f"{source.name}: not a Parquet file that can be read; write it anew, or set dataset.format"
    )
    number = 0
    rows = _PARQUET_BATCH_ROWS if source.form.holds_text else _PARQUET_BATCH_IMAGES
    try:
        with pq.ParquetFile(source.path) as file:
            _check_columns(source, file.schema_arrow.names)
            names = {} if source.form.holds_text else _class_names(source, file.schema_arrow)
            wanted = sorted(set(_wanted(source).values()))
            for batch in file.iter_batches(rows, columns=wanted):
                for values in batch.to_pylist():
                    number += 1
                    label = values.get(source.columns.label)
                    if names and isinstance(label, int):
                        values[source.columns.label] = names.get(label)
                    yield f"row {number}", values
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise unreadable from error
    except OSError as error:
        # Arrow speaks of a broken footer or page as of an I/O error, but with no number.
        if error.errno is None:
            raise unreadable from error
        raise
    except UnicodeDecodeError:
        raise DataError(
            f"{source.name}: a string among rows {number + 1} to {number + rows} is "
            "not UTF-8; write it as UTF-8"
        ) from None


def _read_conll(source: RowSource) -> Iterator[tuple[str, Values]]:
    """Rows are divided by empty lines; a line has a word first and its tag last."""
    columns = dict(source.form.columns(source.columns))
    if len(_wanted(source)) > len(columns):
        raise DataError(
            f"{source.name}: rows of words and tags have no other columns in format conll; leave "
            "dataset.columns.id and group and evaluation.groups out, or write the rows as jsonl or "
            "parquet"
        )
    words: list[str] = []
    tags: list[str] = []
    with source.path.open("rb") as file:
        lines = _Lines(file, source.name)
        for line in chain(lines, ["\n"]):
            fields = line.split()
            if fields and fields[0] != _DOCUMENT:
                if len(fields) == 1:
                    raise DataError(
                        f"{source.name}: line {lines.number}: a word without a tag; write both, "
                        "with a space or a tab between them"
                    )
                words.append(fields[0])
                tags.append(fields[-1])
                continue
            if words:
                place = f"the row at line {lines.row_starts_at}"
                yield place, {columns["tokens"]: words, columns["tags"]: tags}
                words, tags = [], []
            lines.begin_row()


def _class_names(source: RowSource, schema: Any) -> dict[int, str]:
    """The names of numbered labels, where `datasets` wrote them into the file's metadata.

    A number without a name (-1) is no label. ``schema`` is Arrow's, which has no types.
    """
    told = (schema.metadata or {}).get(b"huggingface", b"")
    try:
        feature = json.loads(told)["info"]["features"][source.columns.label]
        return {number: str(name) for number, name in enumerate(feature["names"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _wanted(source: RowSource) -> dict[str, str]:
    columns = source.columns
    settings = dict(source.form.columns(columns))
    if columns.id is not None:
        settings["id"] = columns.id
    if columns.group is not None:
        settings["group"] = columns.group
    wanted = {f"dataset.columns.{setting}": name for setting, name in settings.items()}
    return wanted | {f"evaluation.groups[{i}]": name for i, name in enumerate(source.groups)}


def _check_columns(source: RowSource, names: Sequence[str]) -> None:
    for setting, name in _wanted(source).items():
        count = names.count(name)
        if count > 1:
            raise DataError(f"{source.name}: two columns are named {name!r}; rename one")
        if count == 0:
            raise DataError(
                f"{source.name}: no column {name!r} ({setting}); {what_there_is(name, names)}"
            )


def what_there_is(name: str, names: Sequence[str]) -> str:
    """The columns there are, unless what stands for them is a row: nobody's to read."""
    if any(len(column) > 40 or len(column.split()) > 3 or not column for column in names):
        return (
            f"there are {len(names)}, whose names don't look like names of columns: is the header "
            "missing?"
        )
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        return "the header has no comma: separate columns by commas"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if set(names) >= {"chosen", "rejected"}:
        hint = f"; {not_done('preferences')}"
    more = f" and {len(names) - 30} more" if len(names) > 30 else ""
    shown = ", ".join(" ".join(column.split()) for column in names[:30])
    return f"the columns are: {shown}{more}{hint}"
