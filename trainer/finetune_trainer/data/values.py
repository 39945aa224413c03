"""What a column may hold: texts, names and numbers, checked. Used by readers and row forms.

Messages say where and what to do, never what stands in the row.
"""

import math
from collections.abc import Mapping
from typing import Any

from finetune_trainer.errors import DataError

ROW_LIMIT_BYTES = 1 << 20
"""A row of more than 1 MiB is no text to learn from: it is a broken quote or a wrong file."""

_NAME_SEPARATOR = "|"
_NAME_LIMIT = 253
_GROUP_LIMIT = 63
NO_GROUP = "(missing)"
"""The group of the rows that have none."""

Values = Mapping[str, Any]
"""A row's columns: whatever JSON or Parquet may hold."""


def text_in(values: Values, column: str, where: str) -> str:
    """The column's text; empty where there is none.

    Raises
    ------
    DataError
        If it holds something else, or too much.
    """
    value = values.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} holds {kind_of(value)}, not text; write it as a string"
        )
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: column {column!r} holds half of a surrogate pair at character "
            f"{error.start}; write it as a whole character"
        ) from None
    if size > ROW_LIMIT_BYTES:
        raise too_long(where)
    return value


def name_in(values: Values, column: str, where: str) -> str:
    """A label, id or group as a short string; empty where there is none.

    Raises
    ------
    DataError
        If it holds something else, or too much.
    """
    value = values.get(column)
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, float) and math.isnan(value):
        value = None
    elif isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        value = str(int(value))
    elif value is not None and not isinstance(value, str):
        raise DataError(
            f"{where}: column {column!r} holds {kind_of(value)}; write a short string or a whole "
            "number"
        )
    name = text_in({column: value}, column, where).strip()
    if len(name) > _NAME_LIMIT:
        raise DataError(
            f"{where}: column {column!r} holds {len(name)} characters, more than {_NAME_LIMIT}; "
            "is it the right column?"
        )
    return name


def group_in(values: Values, column: str, where: str) -> str:
    """The name of the group that the column puts the row in; ``NO_GROUP`` where it says nothing.

    Raises
    ------
    DataError
        If it holds what is no name.
    """
    value = values.get(column)
    if isinstance(value, float) and math.isfinite(value):
        # As text: whether a column holds numbers alone is asked of all its rows together.
        value = str(value)
    name = name_in({column: value}, column, where)
    if len(name) > _GROUP_LIMIT:
        raise DataError(
            f"{where}: column {column!r} holds {len(name)} characters, more than {_GROUP_LIMIT}; "
            "evaluation.groups takes columns with the names of groups"
        )
    return name or NO_GROUP


def names_in(values: Values, column: str, where: str) -> tuple[str, ...] | None:
    """Names as a sorted set: of a list, or of a text with | between them; None where unset.

    Raises
    ------
    DataError
        If it holds something else, or a name is too long.
    """
    value = values.get(column)
    if value is None:
        return None
    parts = value
    if not isinstance(value, list):
        parts = text_in(values, column, where).split(_NAME_SEPARATOR)
    names = {name_in({column: part}, column, where) for part in parts}
    return tuple(sorted(names - {""}))


def number_in(values: Values, column: str, where: str) -> float | None:
    """The column's number, as a number or as text; None where there is none.

    Raises
    ------
    DataError
        If it holds something else.
    """
    value = values.get(column)
    if isinstance(value, str):
        try:
            value = float(value) if value.strip() else None
        except ValueError:
            raise DataError(
                f"{where}: column {column!r} holds text that is no number; write it as 1.5 or 3e-4"
            ) from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: column {column!r} holds {kind_of(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise DataError(
            f"{where}: column {column!r} holds {number}; write a finite number, or leave it empty"
        )
    # There is one zero: a row that has the other one is no other row.
    return number + 0.0


def kind_of(value: object) -> str:
    """What a value is, in words."""
    kinds = {bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "another type")


def too_long(where: str) -> DataError:
    """The error of a row beyond the limit."""
    return DataError(
        f"{where}: longer than {ROW_LIMIT_BYTES} bytes, the limit of a row; split it, or look for "
        "a quote that is never closed"
    )
