"""What a resource's schema demands beyond each field's own type: CEL rules and the keys of lists.

``validation`` calls it, so that a laptop refuses what the API server refuses, with the same words.
The schema is the CRD's own; defaults are filled in before the rules are asked, as the server does.
Transition rules compare with an earlier object, which a manifest doesn't have.
"""

import copy
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from finetune_api.markers import Cel
from finetune_api.schema import Schema
from finetune_api.times import parse_time
from finetune_operator.cli.documents import FieldPath

if TYPE_CHECKING:
    import cel

_REFERENCE = re.compile(r"\bself((?:\.\w+\b(?!\())+)")
"""A field that a rule speaks of; a method called on it is no part of its path."""


@dataclass(frozen=True)
class Violation:
    """A rule that does not hold: the object it belongs to, what it speaks of, and its message."""

    path: FieldPath
    concerns: tuple[FieldPath, ...]
    message: str


# Values are JSON's: the schema says which one is expected where, and a manifest may hold another.
def with_defaults(schema: Schema, value: Any) -> Any:
    """The value as the API server would store it: absent fields take their defaults."""
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], item) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    absent = {
        name: copy.deepcopy(child["default"])
        for name, child in schema["properties"].items()
        if "default" in child and name not in value
    }
    return {
        name: with_defaults(schema["properties"].get(name, {}), item)
        for name, item in {**value, **absent}.items()
    }


def violations(
    schema: Schema, value: Any, wrong: Collection[FieldPath], path: FieldPath = ()
) -> Iterator[Violation]:
    """Every rule that an object breaks; ``value`` has its defaults.

    A rule that speaks of a field at ``wrong`` (of a wrong type, or missing) is not asked: its
    answer would only repeat the mistake.
    """
    for entry in schema.get("x-kubernetes-validations", ()):
        rule = Cel(rule=entry["rule"], message=entry["message"])
        concerns = tuple((*path, *names) for names in _references(rule.rule))
        if rule.is_transition or any(_related(c, w) for c in concerns for w in wrong):
            continue
        if not _holds(rule.rule, _cel_value(schema, value)):
            yield Violation(path=path, concerns=concerns, message=rule.message)
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from violations(child, value[name], wrong, (*path, name))
    elif isinstance(value, list) and "items" in schema:
        yield from _repeated_keys(schema, value, path)
        for at, item in enumerate(value):
            yield from violations(schema["items"], item, wrong, (*path, at))


def _repeated_keys(schema: Schema, value: list[Any], path: FieldPath) -> Iterator[Violation]:
    keys = schema.get("x-kubernetes-list-map-keys", ())
    seen: dict[tuple[str, ...], int] = {}
    for at, item in enumerate(value):
        if not keys or not isinstance(item, dict) or not all(key in item for key in keys):
            continue
        named = tuple(f"{key} {item[key]!r}" for key in keys)
        if named in seen:
            message = f"item {seen[named]} has {' and '.join(named)} already; each may stand once"
            yield Violation(path=(*path, at), concerns=((*path, at),), message=message)
        seen.setdefault(named, at)


def _holds(rule: str, this: Any) -> bool:
    """Whether a rule holds; one that can't be computed does not, as on the API server."""
    try:
        return _program(rule).execute({"self": this}) is True
    except (LookupError, ArithmeticError, TypeError):
        return False


@cache
def _program(rule: str) -> "cel.Program":
    # It brings a shell of its own, which takes longer to load than all else that help needs.
    import cel

    return cel.compile(rule)


@cache
def _references(rule: str) -> tuple[tuple[str, ...], ...]:
    """The fields that a rule speaks of."""
    return tuple(tuple(match[1:].split(".")) for match in _REFERENCE.findall(rule))


def _related(one: FieldPath, other: FieldPath) -> bool:
    """Whether one path leads to or through the other."""
    return all(a == b for a, b in zip(one, other, strict=False))


def _cel_value(schema: Schema, value: Any) -> Any:
    """The value with CEL's types: doubles for numbers, timestamps for date-times."""
    if isinstance(value, dict) and "properties" in schema:
        children = schema["properties"]
        return {name: _cel_value(children.get(name, {}), item) for name, item in value.items()}
    if isinstance(value, list) and "items" in schema:
        return [_cel_value(schema["items"], item) for item in value]
    if schema.get("type") == "number" and isinstance(value, int):
        return float(value)
    if schema.get("format") == "date-time" and isinstance(value, str):
        return _moment(value)
    return value


def _moment(text: str) -> datetime | str:
    """A time that is none stays text: its field is reported, and no rule about it is asked."""
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        return text
