"""Pydantic's findings in the words of a manifest: what is wrong, what may stand there, the fix.

``validation`` calls it. Text that a person wrote is shown only where it should have been one of a
few words: elsewhere it may hold what must not be copied into logs.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from pydantic_core import ErrorDetails

from finetune_api.markers import CURRENCY_PATTERN, DECIMAL_PATTERN, RFC3339_PATTERN
from finetune_api.notdone import not_done
from finetune_api.schema import Schema
from finetune_operator.cli.documents import FieldPath

_EXPECTED = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map of fields",
}
_FORMS = {
    CURRENCY_PATTERN: "three capital letters, such as USD",
    DECIMAL_PATTERN: 'a decimal number in quotes, such as "12.50"',
    RFC3339_PATTERN: "a time such as 2026-01-31T00:00:00Z",
}
_SHOWN_CHARACTERS = 40


def in_words(error: ErrorDetails, root: Schema) -> tuple[FieldPath, str]:
    """The field that an error is about, and what to tell the person."""
    path: FieldPath = tuple(part for part in error["loc"] if part != "[key]")
    schema = _at(root, path)
    kind, value = error["type"], error["input"]
    if kind == "missing":
        return path, ": ".join(filter(None, ("is required", schema.get("description"))))
    if kind == "extra_forbidden":
        known = _at(root, path[:-1]).get("properties", {})
        owner = path[-2] if len(path) > 1 else "the manifest"
        missing = _missing(path[-1]) or _missing(value)
        return path, f"is no field of {owner}{missing or suggestion(str(path[-1]), known)}"
    if kind == "string_pattern_mismatch":
        schema = {"pattern": error["ctx"]["pattern"], **schema}
    return path, _SAY[kind](value, schema) if kind in _SAY else error["msg"]


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, or all names where none is near."""
    by_form = {_form(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_form(name), by_form, n=1)
    if near:
        return f"; did you mean {by_form[near[0]]}?"
    return f"; there are: {', '.join(sorted(by_form.values()))}"


def _at(schema: Schema, path: FieldPath) -> Schema:
    """The schema of a field, as far as it is known; metadata is not."""
    for part in path:
        inside = schema.get("items") if isinstance(part, int) else None
        schema = inside or schema.get("properties", {}).get(part, {})
    return schema


# A value is whatever stood in the YAML.
def _type(value: Any, schema: Schema) -> str:
    """What a value must be, what it is, and how to make it right."""
    wanted = schema.get("type", "string")
    must = f"must be {_EXPECTED[wanted]}"
    if isinstance(value, bool):
        quotes = "; YAML takes yes, no, on, off, y and n for booleans: put it in quotes"
        return f"{must}, is a boolean{quotes if wanted == 'string' else ''}"
    if isinstance(value, int | float):
        if wanted == "integer":
            return f"{must}, is {value:g}"
        return f"{must}, is a number{': put it in quotes' if wanted == 'string' else ''}"
    if isinstance(value, str):
        quoted = wanted in {"integer", "number"} and _numeric(value)
        return f"{must}, is a string{': take the quotes away' if quoted else ''}"
    if value is None:
        return f"{must}, is null"
    return f"{must}, is {_EXPECTED['array' if isinstance(value, list) else 'object']}"


def _numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _word(value: Any, schema: Schema) -> str:
    words = [str(word) for word in schema.get("enum", ())]
    must = f"must be {' or '.join(words)}"
    if not isinstance(value, str):
        return f"{must} (a string)"
    shown = f", is {value!r}" if len(value) <= _SHOWN_CHARACTERS else ""
    if missing := _missing(value):
        return must + shown + missing
    near = difflib.get_close_matches(value.lower(), words, n=1) if len(words) > 1 else []
    return must + shown + (f"; did you mean {near[0]}?" if near else "")


def _missing(word: Any) -> str:
    """That what a word asks for is not done, and what is; empty where it asks for nothing known."""
    asked = not_done(word) if isinstance(word, str) else None
    return f": {asked}" if asked else ""


def _range(value: Any, schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    parts = []
    if low is not None:
        parts.append(f"{'more than' if schema.get('exclusiveMinimum') else 'at least'} {low:,}")
    if high is not None:
        parts.append(f"{'less than' if schema.get('exclusiveMaximum') else 'at most'} {high:,}")
    return f"must be {' and '.join(parts)}, is {value:g}"


def _size(value: Any, schema: Schema) -> str:
    unit = "items" if isinstance(value, list) else "characters"
    low = schema.get("minItems", schema.get("minLength", 0))
    high = schema.get("maxItems", schema.get("maxLength"))
    bounds = f"{low:,} to {high:,}" if high is not None else f"at least {low:,}"
    return f"must have {bounds} {unit}, has {len(value):,}"


def _shape(_value: Any, schema: Schema) -> str:
    pattern = schema.get("pattern", "")
    return f"must be {_FORMS.get(pattern, f'of the form {pattern}')}"


_SAY: dict[str, Callable[[Any, Schema], str]] = {
    **dict.fromkeys(("bool_type", "dict_type", "float_type", "int_type", "int_from_float"), _type),
    **dict.fromkeys(("list_type", "model_type", "string_type", "tuple_type"), _type),
    **dict.fromkeys(("greater_than", "greater_than_equal", "int_parsing_size"), _range),
    **dict.fromkeys(("less_than", "less_than_equal"), _range),
    **dict.fromkeys(("enum", "literal_error"), _word),
    **dict.fromkeys(("string_too_short", "string_too_long", "too_short", "too_long"), _size),
    **dict.fromkeys(("string_pattern_mismatch", "timestamp"), _shape),
}
"""By the type of pydantic's error; what is not named here is said in pydantic's own words."""


def _form(name: str) -> str:
    """A name as it is heard: learning_rate, learningrate and learningRate are one."""
    return name.replace("_", "").replace("-", "").lower()
