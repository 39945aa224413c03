"""The reference page: every field, rule, phase, condition, exit code and variable of the contract.

``finetune-operator generate`` writes it to docs/reference.md, so it can't part from the types.
"""

from collections.abc import Iterable, Iterator

from finetune_api import API_VERSION
from finetune_api.phases import MEANINGS, TERMINAL, TRANSITIONS, Phase
from finetune_api.report import EXIT_MEANING
from finetune_api.run import ENV_MEANING
from finetune_api.schema import RESOURCES, Resource, Schema, resource_schema

_HEAD = """\
# Reference

Generated from the types in `operator/finetune_api` by `make generate`; don't edit.

A field without a default may be left out, unless it says *required*. `[]` in a path stands for an
item of a list, `{}` for a value of a map.
"""
_BOUNDS = (
    ("minimum", "exclusiveMinimum", "≥", ">"),
    ("maximum", "exclusiveMaximum", "≤", "<"),
)
_SIZES = (
    ("minLength", "at least {} characters"),
    ("maxLength", "at most {} characters"),
    ("minItems", "at least {} items"),
    ("maxItems", "at most {} items"),
    ("maxProperties", "at most {} entries"),
)


def reference_page() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD]
    for resource in RESOURCES:
        parts.extend(_resource(resource))
    parts.extend(_phases())
    parts.extend(_conditions())
    parts.extend(_exit_codes())
    parts.extend(_environment())
    return "\n".join(parts)


def _resource(resource: Resource) -> Iterator[str]:
    schema = resource_schema(resource)
    kind = resource.kind
    names = ", ".join(f"`{name}`" for name in (kind.plural, *kind.short_names))
    yield f"## {kind.kind}\n"
    yield f"{schema['description']}\n"
    yield f"`apiVersion: {API_VERSION}`, {kind.scope.lower()}; for kubectl {names}.\n"
    for block in ("spec", "status"):
        if block in schema["properties"]:
            yield from _block(schema["properties"][block], block)
    rules = list(_rules(schema, ""))
    if rules:
        yield f"### Rules of {kind.kind}\n"
        yield "What the API server and the command line refuse beyond types and bounds.\n"
        yield _table(("where", "refused with", "rule (CEL)"), rules)


def _block(schema: Schema, path: str) -> Iterator[str]:
    """A table for an object, then one for each object in it."""
    yield f"### {path}\n"
    yield f"{schema.get('description', '')}\n"
    required = schema.get("required", ())
    yield _table(
        ("field", "type", "default", "bounds", "what it says"),
        (
            (
                f"`{name}`",
                _type(child),
                "*required*" if name in required else _default(child),
                _bounds(child),
                child.get("description", ""),
            )
            for name, child in schema["properties"].items()
        ),
    )
    for name, child in schema["properties"].items():
        inner, inner_path = _innermost(child, f"{path}.{name}")
        if "properties" in inner:
            yield from _block(inner, inner_path)


def _innermost(schema: Schema, path: str) -> tuple[Schema, str]:
    """What a list or map holds, at whatever depth, and its path."""
    if "items" in schema:
        return _innermost(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        return _innermost(schema["additionalProperties"], f"{path}{{}}")
    return schema, path


def _type(schema: Schema) -> str:
    if "items" in schema:
        keys = schema.get("x-kubernetes-list-map-keys")
        return f"list of {_type(schema['items'])}" + (f", by {' and '.join(keys)}" if keys else "")
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("format") == "date-time":
        return "time (RFC 3339)"
    return str(schema["type"])


def _default(schema: Schema) -> str:
    default = schema.get("default")
    if default is None or default == "":
        return ""
    if isinstance(default, dict):
        return "see its fields"
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return f"`{text}`"


def _bounds(schema: Schema) -> str:
    found = [
        f"{strictly if schema.get(exclusive) else loosely} {schema[bound]:,}"
        for bound, exclusive, loosely, strictly in _BOUNDS
        if bound in schema
    ]
    found += [text.format(f"{schema[size]:,}") for size, text in _SIZES if size in schema]
    if "pattern" in schema and "format" not in schema:
        found.append(f"`{schema['pattern']}`")
    if "items" in schema and "properties" not in schema["items"] and _bounds(schema["items"]):
        found.append(f"each {_bounds(schema['items'])}")
    return ", ".join(found)


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield (f"`{path}`" if path else "the object", rule["message"], f"`{rule['rule']}`")
    for name, child in schema.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _phases() -> Iterator[str]:
    yield "## Phases\n"
    yield "`status.phase` is derived from the conditions, for people.\n"
    yield _table(
        ("phase", "may be followed by"),
        (
            (
                f"`{phase}`",
                "nothing: it is over"
                if phase in TERMINAL
                else ", ".join(f"`{later}`" for later in Phase if later in TRANSITIONS[phase]),
            )
            for phase in Phase
        ),
    )


def _conditions() -> Iterator[str]:
    yield "## Conditions and reasons\n"
    yield "`kubectl wait --for=condition=Complete --timeout=1h ftj/NAME` waits for any of these.\n"
    yield _table(
        ("condition", "status", "reasons", "meaning"),
        (
            (
                f"`{row.condition}`",
                row.status,
                ", ".join(f"`{reason}`" for reason in row.reasons),
                row.meaning,
            )
            for row in MEANINGS
        ),
    )


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes of the trainer\n"
    yield "Others are the kernel's: 128 and the signal's number.\n"
    yield _table(
        ("code", "meaning"), ((str(int(code)), text) for code, text in EXIT_MEANING.items())
    )


def _environment() -> Iterator[str]:
    yield "## Environment of a trainer pod\n"
    yield "Set by the engine. The run is a file; the environment says which process this is.\n"
    yield _table(
        ("variable", "meaning"), ((f"`{name}`", text) for name, text in ENV_MEANING.items())
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """A table's cell: a bar in it, in code too, would end it."""
    return text.replace("\\|", "|").replace("|", "\\|").replace("\n", " ")
