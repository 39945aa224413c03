"""Rows of one image each with its class: how they are read, and what is told of them.

Used by the tasks on images. A row's image is decoded when the row is read, for what it is compared
by are its pixels; from then on the row holds where they lie.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from finetune_api.datareport import ImageStatistics, Spread
from finetune_api.dataset import Columns
from finetune_trainer.data.cleaning import (
    IMAGE_FAULTS,
    MOST_DROPPED_PERCENT,
    NO_IMAGE,
    NO_LABEL,
    Counts,
)
from finetune_trainer.data.encoding import Column, EncodedRow
from finetune_trainer.data.image_files import METADATA, ImageFiles
from finetune_trainer.data.image_likeness import ImageLikeness
from finetune_trainer.data.images import decode
from finetune_trainer.data.pixels import PixelStore
from finetune_trainer.data.rows import CleanRow
from finetune_trainer.data.values import Values, kind_of, name_in
from finetune_trainer.data.variety import effective_number
from finetune_trainer.errors import DataError

IMAGE_COLUMN = "image"
FILE_COLUMN = "file_name"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """An image that can be learned from: its size and mode as it came, and where its pixels lie."""

    key: str
    width: int
    height: int
    mode: str
    place: int
    original: Path | tuple[int, int]
    store: PixelStore

    def pixels(self) -> bytes:
        """As the model reads it, before values are scaled."""
        return self.store.pixels(self.place)

    def thumbnail(self) -> bytes:
        """What near copies are known by."""
        return self.store.thumbnail(self.place)

    def encoded(self) -> bytes:
        """As its file or its row holds it."""
        if isinstance(self.original, Path):
            return self.original.read_bytes()
        return self.store.kept(self.original)


@dataclass(frozen=True, slots=True)
class NoImage:
    """What can't be learned from, and why; ``cleaning`` has the names."""

    fault: str


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """An image and its class. Without a ``store`` nothing is decoded, only digested."""

    files: ImageFiles = field(default_factory=lambda: ImageFiles(None, None))
    store: PixelStore | None = None

    fewest_classes = 2
    holds_text = False
    faults: Sequence[str] = IMAGE_FAULTS
    holds_markup = False
    no_target = NO_LABEL
    has_one_target = True
    mending = None

    def among(self, files: ImageFiles) -> "ImageRows":
        """The form of a source whose images lie there."""
        return replace(self, files=files)

    def columns(self, columns: Columns) -> Mapping[str, str]:
        """Image and label."""
        return {"image": columns.image or IMAGE_COLUMN, "label": columns.label}

    def read(
        self, values: Values, columns: Columns, where: str
    ) -> tuple[ImageRow | NoImage, str | None]:
        """Decode the image and read its class; a row without a label has none."""
        label = name_in(values, columns.label, where) or None
        column = columns.image or IMAGE_COLUMN
        given = _given(values.get(column), column, where)
        content = self.files.open(given, where) if isinstance(given, str) else given
        if self.store is None or content is None:
            return NoImage(NO_IMAGE), label
        if isinstance(content, str):
            return NoImage(content), label
        decoded = decode(content)
        if isinstance(decoded, str):
            return NoImage(decoded), label
        original: Path | tuple[int, int]
        if isinstance(given, str) and self.files.folder is not None:
            original = self.files.folder / given
        else:
            original = self.store.keep(content)
        image = decoded.image
        return (
            ImageRow(
                key=decoded.key,
                width=image.width,
                height=image.height,
                mode=decoded.mode,
                place=self.store.add(image),
                original=original,
                store=self.store,
            ),
            label,
        )

    def fault_of(self, given: ImageRow | NoImage) -> str | None:
        """Why it can't be learned from."""
        return given.fault if isinstance(given, NoImage) else None

    def text_of(self, given: ImageRow) -> str:
        """A digest of its pixels, which is what equal images have in common."""
        return given.key

    def prose_of(self, given: ImageRow) -> str:  # noqa: ARG002 - as the form has it
        """It has none."""
        return ""

    def likeness(self, rows: Sequence[CleanRow[ImageRow, str]]) -> ImageLikeness:
        """By what they show."""
        return ImageLikeness([row.input for row in rows])

    def with_texts(self, given: ImageRow, change: Callable[[str], str]) -> ImageRow:  # noqa: ARG002
        """It has none."""
        return given

    def mended(self, target: str) -> str:
        """As it is."""
        return target

    def needed(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """All of them."""
        return classes

    def classes_of(self, target: str) -> tuple[str, ...]:
        """Its one class."""
        return (target,)

    def measured(self, targets: Sequence[str]) -> None:  # noqa: ARG002 - as the form has it
        """Classes are no numbers."""
        return

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """One output per class."""
        return classes


def with_image_column(columns: Columns, file: str) -> Columns:
    """The columns with the image's named: where the manifest doesn't, it goes by the file's name.

    Hugging Face writes ``metadata.csv`` (or .jsonl, .parquet) with a column ``file_name``.
    """
    if columns.image is not None:
        return columns
    named = FILE_COLUMN if Path(file).stem == METADATA else IMAGE_COLUMN
    return columns.model_copy(update={"image": named})


def _given(value: Any, column: str, where: str) -> str | bytes | None:
    """A path, the bytes of a file, or None where there is neither.

    ``value`` is what Parquet or JSON holds there.
    """
    if isinstance(value, Mapping):
        held = value.get("bytes")
        value = value.get("path") if held is None else _bytes(held, column, where)
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.strip() or None
    raise DataError(
        f"{where}: column {column!r} holds {kind_of(value)}, not an image; write its bytes, a "
        "struct {bytes, path}, or a path"
    )


def _bytes(held: Any, column: str, where: str) -> bytes:
    """Bytes of Parquet, or the base64 that stands for them in JSON."""
    if isinstance(held, bytes):
        return held
    try:
        return base64.b64decode(held, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise DataError(
            f"{where}: column {column!r} holds bytes that are not base64; write them as base64, or "
            "the rows as Parquet"
        ) from None


def check_images(counts: Counts, most_percent: int | None) -> None:
    """Refuse data of which too much can't be learned from.

    Raises
    ------
    DataError
        Naming the faults and some of their rows.
    """
    most = MOST_DROPPED_PERCENT if most_percent is None else most_percent
    faults = {fault: counts.rows.get(fault, 0) for fault in IMAGE_FAULTS}
    broken = sum(faults.values())
    if 100 * broken <= most * counts.read:
        return
    told = "; ".join(
        f"{rows} {fault} (rows {', '.join(counts.examples[fault][:5])})"
        for fault, rows in faults.items()
        if rows
    )
    raise DataError(
        f"dataset: {broken} of {counts.read} rows would be left out, more than {most} %: {told}; "
        "mend or remove them, or allow it with dataset.maxDroppedPercent"
    )


def describe(
    rows: Sequence[CleanRow[ImageRow, str]], families: Sequence[int] | None
) -> ImageStatistics:
    """Sizes and modes of images as they came, and the size in which the model reads them.

    ``families`` are the sizes of families of near copies.
    """
    form = rows[0].input.store.form
    return ImageStatistics(
        width=_spread([row.input.width for row in rows]),
        height=_spread([row.input.height for row in rows]),
        modes=dict(Counter(row.input.mode for row in rows).most_common()),
        read_width=form.width,
        read_height=form.height,
        effective_rows=effective_number(families) if families else None,
    )


def _spread(values: Sequence[int]) -> Spread:
    return Spread(min=min(values), median=float(np.median(values)), max=max(values))


@dataclass(frozen=True)
class ImageEncoder:
    """Writes pixels as bytes, and a class as its number."""

    numbers: Mapping[str, int]

    @property
    def features(self) -> Mapping[str, Column]:
        """``pixels`` and ``label``."""
        from datasets import Value

        return {"pixels": Value("binary"), "label": Value("int64")}

    @property
    def kept_features(self) -> Mapping[str, Column]:
        """Nothing: the pixels are there in any case."""
        return {}

    def encode(self, rows: Sequence[CleanRow[ImageRow, str]]) -> Iterator[EncodedRow]:
        """One example each."""
        for row in rows:
            example = {"pixels": row.input.pixels(), "label": self.numbers[row.target]}
            yield EncodedRow(example=example, tokens=0, is_cut=False)

    def kept(self, row: CleanRow[ImageRow, str]) -> Mapping[str, Column]:  # noqa: ARG002
        """Nothing."""
        return {}


def image_encoder(
    processor: BaseImageProcessor | PreTrainedTokenizerBase,  # noqa: ARG001 - as encoders are called
    classes: tuple[str, ...],
    max_length: int | None,  # noqa: ARG001 - as above
) -> ImageEncoder:
    """Encode a class as its number."""
    return ImageEncoder({label: number for number, label in enumerate(classes)})
