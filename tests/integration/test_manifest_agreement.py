"""The laptop and the API server take the same manifests and read the same YAML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from finetune_api import API_VERSION
from finetune_api.schema import Schema
from finetune_operator.cli.documents import read_documents
from finetune_operator.cli.manifest import ManifestError, read_manifests
from harness.controlplane import ControlPlane
from harness.objects import ABSENT, JOB, RATE_CARD, Object, changed, resource_of, schema_of

SCALARS = """\
a: {a: y, b: yes, c: on, d: "on", e: n, f: Off, g: oN, h: TRUE, i: tRUE}
b: [3e-5, 1e3, 1.0, .5, +.5, 5., 1_000, 0x1F, -0x1f, 017, 0o17, 08, 0b11, -5, +5, 1__0, -1_0.5_0]
c: [1:30, 1e400, 0x, _1, =, 2026-11-23, 2026-11-23T10:00:00Z, 1e30, 1e-7, 0.1e1, 1.5e3, 0b2, -, .]
d: [~, null, Null, NULL, nULL, !!str 5, !!int 5, "~", '']
e:
f: |
  text
g: >-
  folded
  text
1: one
1.5: one and a half
true: yes
base: &base {x: 1, z: 2}
before: {z: 3, <<: *base}
after: {<<: *base, z: 3}
two: {<<: [{x: 5, w: 6}, *base], w: 7}
again: *base
"""

URIS = [
    "pvc://a/b",
    "pvc://a.b/",
    "pvc://A/b",
    "pvc://..//b",
    "s3://b/k",
    "https://h/p",
    "http://h/p",
    "://",
    "pvc://",
    "rel/path",
]
LENGTHS = ["", "x", "a b", "x" * 64, "x" * 254, "x" * 1025, "é" * 253, "Täst", "1\n"]
ENUMS = ["auto", "csv", "CSV", "accelerator", "true", "USD", "usd", "EURO"]
DECIMALS = ["1", "1.5", "-1", "0.1234567890", "1e3", "NaN", "١"]
TIMES = [
    "2026-03-02",
    "2026-03-02T08:00:00Z",
    "2026-03-02t08:00:00z",
    "2026-03-02T08:00:60Z",
    "2026-03-02T24:00:00Z",
    "2026-02-30T00:00:00Z",
    "2026-03-02T08:00:00.123456+01:00",
    "2026-03-02T08:00:00.1234567Z",
    "2026-03-02T08:00:00-00:00",
    "2026-03-02T08:00:00+25:00",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
]
QUANTITIES = ["2", "0", "0.5", "0.05", "0.50", "0.0", "500m", "1.5", "8Gi", "1.5Gi", "0Gi", "8gi"]
KEYS = st.sampled_from(
    [
        "zone",
        "kubernetes.io/arch",
        "a b",
        "",
        "/a",
        "a/b/c",
        "A/b",
        "a" * 64,
        f"{'a' * 253}/{'b' * 63}",
    ]
)
WORDS = st.sampled_from([*URIS, *LENGTHS, *ENUMS, *DECIMALS, *TIMES, *QUANTITIES])
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 10, 33, 64, 90, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1])
FRACTIONS = st.sampled_from([-1.5, -1.0, -0.5, 0.0, 0.05, 0.5, 1.0, 1.5, 32.0, 1e-300, 1e20, 1e300])
ANYTHING: st.SearchStrategy[Any] = (
    WORDS | NUMBERS | FRACTIONS | st.booleans() | st.none() | st.just([]) | st.just({})
)


def values_for(schema: Schema) -> st.SearchStrategy[Any]:
    """Values near the edge of what a field takes, and some that it can't take."""
    candidates = [st.just(schema[bound]) for bound in ("minimum", "maximum") if bound in schema]
    candidates += [
        st.just(schema[bound] + step)
        for bound, step in (("minimum", -1), ("maximum", 1))
        if bound in schema
    ]
    if "enum" in schema:
        candidates.append(st.sampled_from(schema["enum"]))
    if "items" in schema:
        item = value_like(schema["items"])
        candidates += [
            st.lists(item, max_size=3),
            st.lists(item | ANYTHING, max_size=3),
            item.map(lambda it: [it] * (schema["maxItems"] + 1)),
        ]
    if "properties" in schema or "additionalProperties" in schema:
        candidates.append(value_like(schema))
    right = {"string": WORDS, "integer": NUMBERS, "number": FRACTIONS | NUMBERS}
    candidates.append(right.get(schema.get("type", ""), st.booleans()))
    if schema.get("format") == "date-time":
        # An API server takes a list for a time: seen at 1.34, in kube-openapi's format check.
        return st.one_of(*candidates, NUMBERS, st.booleans(), st.none(), st.just({}))
    return st.one_of(*candidates, ANYTHING)


def value_like(schema: Schema) -> st.SearchStrategy[Any]:
    """A value of the field's own shape, if not always within its bounds."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "properties" in schema:
        required = set(schema.get("required", ()))
        fields = {name: value_like(child) for name, child in schema["properties"].items()}
        return st.fixed_dictionaries(
            {name: it for name, it in fields.items() if name in required},
            optional={name: it for name, it in fields.items() if name not in required},
        )
    if "additionalProperties" in schema:
        return st.dictionaries(KEYS, value_like(schema["additionalProperties"]), max_size=2)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "string": WORDS,
        "integer": NUMBERS,
        "number": FRACTIONS | NUMBERS,
        "boolean": st.booleans(),
    }
    if "items" in schema:
        return st.lists(value_like(schema["items"]), max_size=2)
    return simple[schema["type"]]


def paths_of(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every field below a block that can be set without a list in between."""
    for name, child in schema.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from paths_of(child, f"{path}.{name}")


def changes_of(base: Object) -> st.SearchStrategy[Object]:
    """Objects that differ from a good one in up to four fields, some of them unknown."""
    known = list(paths_of(schema_of(base)["properties"]["spec"], "spec"))
    known += [
        (f"spec.entries.0.{name}", child)
        for path, schema in known
        if path == "spec.entries"
        for name, child in schema["items"]["properties"].items()
    ]
    one = st.sampled_from(known).flatmap(
        lambda it: st.tuples(st.just(it[0]), values_for(it[1]) | st.just(ABSENT))
    )
    unknown = st.sampled_from([("spec.unknown", 1), ("metadata.unknown", 1), ("extra", {})])
    names = st.sampled_from(["a", "a" * 40, "a" * 41, "a.b", "A", "a-", "1a", "", "a_b", "-a"])
    labels = st.sampled_from([{"a": "b"}, {"a/b": ""}, {"a b": "c"}, {"a": "-"}, {"a": 1}, []])
    annotations = st.sampled_from(
        [{"a": "any thing"}, {"A.b/C": "d"}, {"a/b/c": "d"}, {"": "x"}, {"a": None}]
    )
    metadata = (
        st.tuples(st.just("metadata.name"), names)
        | st.tuples(st.just("metadata.labels"), labels)
        | st.tuples(st.just("metadata.annotations"), annotations)
    )
    picks = st.lists(one | one | one | unknown | metadata, min_size=1, max_size=4)
    return picks.map(lambda found: apply(base, found))


def apply(base: Object, changes: list[tuple[str, Any]]) -> Object:
    """Make the changes that can still be made: one may have taken another's parent away."""
    result = base
    for path, value in sorted(changes, key=lambda it: it[0].count(".")):
        try:
            result = changed(result, {path: value})
        except (AttributeError, IndexError, TypeError, ValueError):
            continue
    return result


def taken_by_the_laptop(folder: Path, obj: Object) -> tuple[bool, str, Any]:
    """Whether the command line takes an object, what it said, and what it read."""
    path, beside = folder / "a.yaml", folder / "b.yaml"
    path.write_text(json.dumps(obj))
    beside.write_text(json.dumps(JOB))
    (document,), found = read_documents(path)
    assert found == []
    try:
        read_manifests([path] if obj["kind"] == "FineTuneJob" else [path, beside])
    except ManifestError as refusal:
        return False, str(refusal), document.value
    return True, "", document.value


@pytest.mark.parametrize("base", [JOB, RATE_CARD], ids=lambda it: it["kind"])
def test_the_laptop_and_the_api_server_take_the_same_objects(
    cluster: ControlPlane, tmp_path: Path, base: Object
) -> None:
    kind = resource_of(base).kind
    inside = "/namespaces/default" if kind.scope == "Namespaced" else ""
    path = f"/apis/{API_VERSION}{inside}/{kind.plural}?dryRun=All&fieldValidation=Strict"

    @settings(
        max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(obj=changes_of(base))
    @example(obj=base)
    def agree(obj: Object) -> None:
        taken, said, read = taken_by_the_laptop(tmp_path, obj)
        reply = cluster.request("POST", path, read)
        assert reply.status in {201, 400, 422}, reply.body
        event("taken" if taken else "refused")
        assert taken == (reply.status == 201), f"laptop: {said or 'taken'}\nserver: {reply.message}"

    agree()


def test_kubectl_reads_yaml_as_the_laptop_does(cluster: ControlPlane, tmp_path: Path) -> None:
    head = f"apiVersion: {API_VERSION}\nkind: RateCard\nmetadata: {{name: scalars}}\nspec:\n"
    text = head + "".join(f"  {line}\n" for line in SCALARS.splitlines())
    path = tmp_path / "a.yaml"
    path.write_text(text)
    told = cluster.kubectl(
        "create", "--dry-run=client", "--validate=false", "-o", "json", "-f", str(path)
    )
    (document,), found = read_documents(path)
    assert found == []
    assert json.dumps(document.value["spec"], sort_keys=True) == json.dumps(
        json.loads(told.stdout)["spec"], sort_keys=True
    )
