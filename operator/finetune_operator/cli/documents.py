"""YAML as kubectl reads it, with the line of every value.

``manifest`` calls it. PyYAML's own reading of plain scalars differs from kubectl's: it takes
``3e-5`` for a string, ``1:30`` for ninety, and ``2026-11-23`` for a date. The same text must mean
the same job on a laptop and on a cluster, so scalars are resolved by the rules of Go's yaml.v2.
"""

import math
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_operator.core.observed import Problem

STANDARD_INPUT = Path("-")
"""As kubectl has it; relative paths start from the working directory then."""

LIMIT_BYTES = 1_048_576
LIMIT_VALUES = 100_000
"""Over all documents of a file, each repetition of an anchor counted."""
LIMIT_DEPTH = 64

FieldPath = tuple[str | int, ...]

_BOOLEANS = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE"), True),
    **dict.fromkeys(("on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE"), False),
    **dict.fromkeys(("off", "Off", "OFF"), False),
}
_NULLS = {"", "~", "null", "Null", "NULL"}
_NOT_JSON = re.compile(r"^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")
_INTEGER = re.compile(
    r"^([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))$"
)
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_NUMERIC = frozenset("+-0123456789")
_WHOLE_FLOAT = 1e21
"""Go's encoder writes whole floats below this as integers, and the API server takes them so."""

_TAG = "tag:yaml.org,2002:"
_PLAIN = f"{_TAG}plain"
_RESOLVED_TAGS = {_PLAIN, *(f"{_TAG}{name}" for name in ("int", "float", "bool", "null"))}


@dataclass(frozen=True)
class Document:
    """One YAML document: its value as JSON would have it, and where each part of it stands."""

    path: Path
    # Any JSON value: what it should be is the manifest reader's question.
    value: Any
    lines: dict[FieldPath, int]

    def line(self, field_path: FieldPath) -> int:
        """Line of a field, or of the nearest thing around it."""
        while field_path not in self.lines:
            field_path = field_path[:-1]
        return self.lines[field_path]

    def source(self, field_path: FieldPath) -> str:
        """File and line of a field, as editors and compilers write them."""
        return f"{self.path}:{self.line(field_path)}"


class UnreadableError(Exception):
    """A file that can't be read as YAML; what stands in it is not known."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def read_documents(path: Path) -> tuple[list[Document], list[Problem]]:
    """Read a file's documents, and what is wrong with its YAML without hiding the rest.

    Raises UnreadableError where nothing of the file can be trusted.
    """
    text = _text(path)
    problems: list[Problem] = []
    try:
        return list(_documents(_Loader(text), _Reader(path, problems))), problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        source = f"{path}:{mark.line + 1}" if mark is not None else str(path)
        raise _unreadable(
            f"is no YAML: {error.problem or error.context}; see to indentation, quotes and colons",
            source,
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(
            f"the character U+{ord(text[error.position]):04X} has no place in YAML; take it out",
            f"{path}:{line}",
        ) from error


def dotted(path: FieldPath) -> str:
    """A field's path as people write it: spec.evaluation.gate[0].min."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in path
    ).removeprefix(".")


def _documents(loader: "_Loader", reader: "_Reader") -> Iterator[Document]:
    while loader.check_node():
        node: yaml.Node = loader.get_node()  # type: ignore[assignment]  # there is one
        lines: dict[FieldPath, int] = {(): _line(node)}
        value = reader.value(node, (), lines)
        if value is not None:
            yield Document(path=reader.path, value=value, lines=lines)


def _unreadable(message: str, source: str) -> UnreadableError:
    return UnreadableError(Problem(field="", message=message, source=source))


def _text(path: Path) -> str:
    try:
        with nullcontext(sys.stdin.buffer) if path == STANDARD_INPUT else path.open("rb") as file:
            content = file.read(LIMIT_BYTES + 1)
    except FileNotFoundError as error:
        raise _unreadable("no such file", str(path)) from error
    except IsADirectoryError as error:
        raise _unreadable("is a folder; name the manifests in it", str(path)) from error
    except OSError as error:
        raise _unreadable(f"can't be read: {error.strerror}", str(path)) from error
    if len(content) > LIMIT_BYTES:
        raise _unreadable(
            f"is larger than {LIMIT_BYTES:,} bytes, the most that a manifest may have", str(path)
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _unreadable(
            f"byte {error.start + 1} is not UTF-8; save the file as UTF-8", f"{path}:{line}"
        ) from error


class _Loader(yaml.SafeLoader):
    """Composes in Python, so that depth can be bounded, and leaves plain scalars unresolved."""

    depth = 0

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """Mark what was written without quotes and tag: its type is `_resolve`'s matter."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return str(super().resolve(kind, value, (False, True)))  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose as usual, but not deeper than a manifest can be."""
        if self.depth >= LIMIT_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _refusal(f"nested more than {LIMIT_DEPTH} deep", mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


@dataclass
class _Reader:
    """Turns composed nodes into JSON's values, one file's worth."""

    path: Path
    problems: list[Problem]
    values: int = 0

    def value(self, node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int]) -> Any:
        """The node's value; its parts' lines go into ``lines``."""
        self.values += 1
        if self.values > LIMIT_VALUES or len(path) > LIMIT_DEPTH:
            raise _refusal("anchors repeat too much; write less of it", node.start_mark)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, path, "seq")
            return [self._item(child, (*path, at), lines) for at, child in enumerate(node.value)]
        self._check_tag(node, path, "map")
        return self._mapping(node, path, lines)

    def _item(self, node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int]) -> Any:
        lines[path] = _line(node)
        return self.value(node, path, lines)

    def _mapping(
        self, node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int]
    ) -> dict[str, Any]:
        own: dict[str, int] = {}
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _PLAIN and key_node.value == "<<":
                result.update(self._merged(value_node, path, lines))
                continue
            name, line = self._key(key_node, path), _line(key_node)
            if name in own:
                self._report((*path, name), f"stands here and in line {own[name]}; keep one", line)
            own[name] = lines[*path, name] = line
            result[name] = self.value(value_node, (*path, name), lines)
        return result

    def _merged(
        self, node: yaml.Node, path: FieldPath, lines: dict[FieldPath, int]
    ) -> dict[str, Any]:
        """What << brings: it overrides what stands before it, as in kubectl; the first map wins."""
        merged: dict[str, Any] = {}
        for source in reversed(node.value if isinstance(node, yaml.SequenceNode) else [node]):
            if not isinstance(source, yaml.MappingNode):
                raise _refusal("<< merges maps only", source.start_mark)
            merged.update(self.value(source, path, lines))
        return merged

    def _key(self, node: yaml.Node, path: FieldPath) -> str:
        key = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        if key is None:
            raise _refusal("a field's name must be a word", node.start_mark)
        return str(key).lower() if isinstance(key, bool) else str(key)

    def _scalar(self, node: yaml.ScalarNode, path: FieldPath) -> Any:
        if node.tag not in _RESOLVED_TAGS:
            self._check_tag(node, path, "str")
            # JSON writes what lies beyond U+FFFF as two escapes, which belong together.
            pairs = node.value.encode("utf-16", "surrogatepass")
            whole = pairs.decode("utf-16", "replace")
            if whole.encode("utf-16") != pairs:
                self._report(path, "holds half of a character; write it as UTF-8", _line(node))
            return whole
        if _NOT_JSON.match(node.value):
            self._report(path, f"{node.value} is no number that JSON has", _line(node))
            return None
        return _resolve(node.value)

    def _check_tag(self, node: yaml.Node, path: FieldPath, expected: str) -> None:
        if node.tag != f"{_TAG}{expected}":
            tag = node.tag.replace(_TAG, "!!")
            self._report(path, f"the tag {tag} means nothing here; take it out", _line(node))

    def _report(self, path: FieldPath, message: str, line: int) -> None:
        self.problems.append(
            Problem(field=dotted(path), message=message, source=f"{self.path}:{line}")
        )


def _resolve(text: str) -> str | int | float | bool | None:
    """What a plain scalar means to kubectl."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    digits = text if text[:1] == "." else text.replace("_", "") if text[:1] in _NUMERIC else ""
    if match := _INTEGER.match(digits):
        sign, base16, base2, base8, base10 = match.groups()
        for numeral, base in ((base16, 16), (base2, 2), (base8, 8), (base10, 10)):
            if numeral is not None and -(2**63) <= (value := int(sign + numeral, base)) < 2**64:
                return value
    if _FLOAT.match(digits) and math.isfinite(number := float(digits)):
        return int(number) if number.is_integer() and abs(number) < _WHOLE_FLOAT else number
    return text


def _refusal(message: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, message, mark)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
