"""The chart's values: a mistake is refused with its place, and every value is obeyed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from harness.helm import CHART, KUBE_VERSION, Values, helm, render

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def complaint(values: Values) -> str:
    """What Helm says to values that it refuses."""
    command = ("template", "finetune", str(CHART), "--kube-version", KUBE_VERSION)
    refused = helm(*command, values=values, check=False)
    assert refused.returncode != 0, "these values were taken"
    return refused.stderr


@pytest.mark.parametrize(
    ("values", "where", "what"),
    [
        ({"replicas": 2}, "''", "additional properties 'replicas' not allowed"),
        ({"operator": {"replica": 2}}, "'/operator'", "additional properties 'replica'"),
        ({"operator": {"image": {"name": "x"}}}, "'/operator/image'", "'name' not allowed"),
        ({"operator": {"replicas": "two"}}, "'/operator/replicas'", "want integer"),
        ({"operator": {"logLevel": "chatty"}}, "'/operator/logLevel'", "'DEBUG', 'INFO'"),
        ({"operator": {"reportSeconds": -1}}, "'/operator/reportSeconds'", "got -1, want 0"),
        ({"operator": {"resources": {"cpu": 1}}}, "'/operator/resources'", "'cpu' not allowed"),
        ({"trainer": {"image": {"digest": "abc"}}}, "'/trainer/image/digest'", "sha256"),
        ({"trainer": {"image": {"tag": "a b"}}}, "'/trainer/image/tag'", "pattern"),
        ({"watchNamespaces": "team-a"}, "'/watchNamespaces'", "want array"),
        ({"watchNamespaces": ["Team_A"]}, "'/watchNamespaces/0'", "pattern"),
        ({"fullnameOverride": "a" * 41}, "'/fullnameOverride'", "40"),
        ({"serviceAccount": {"create": False}}, "'/serviceAccount/name'", "minLength"),
        ({"crds": {"enabled": "yes"}}, "'/crds/enabled'", "want boolean"),
    ],
)
def test_a_mistake_is_refused_with_its_place(values: Values, where: str, what: str) -> None:
    said = complaint(values)
    assert f"at {where}" in said
    assert what in said


def test_a_kubernetes_that_is_too_old_is_refused() -> None:
    old = helm("template", "finetune", str(CHART), "--kube-version", "1.29.9", check=False)
    assert old.returncode != 0
    assert ">=1.30.0-0" in old.stderr


def test_the_values_that_helm_adds_for_a_subchart_are_taken() -> None:
    assert render({"global": {"imageRegistry": "registry.example"}}) == render()


def test_the_schema_knows_each_value_and_each_value_stands_in_the_file() -> None:
    assert set(schema_paths(SCHEMA)) - {"global"} == set(value_paths(VALUES, SCHEMA))


def test_every_value_is_read_by_a_template() -> None:
    templates = "\n".join(it.read_text() for it in (CHART / "templates").iterdir())
    for path in value_paths(VALUES, SCHEMA):
        last = path.rsplit(".", 1)[-1]
        assert re.search(rf"\.{last}\b", templates), f"{path} is accepted and ignored"


def schema_paths(schema: dict[str, Any], under: str = "") -> Iterator[str]:
    """Dotted paths of what the schema takes, down to what it leaves open."""
    for name, sub in schema["properties"].items():
        path = f"{under}{name}"
        if "properties" in sub:
            yield from schema_paths(sub, f"{path}.")
        else:
            yield path


def value_paths(values: Values, schema: dict[str, Any], under: str = "") -> Iterator[str]:
    """Dotted paths of the values in the file, as far down as the schema describes them."""
    for name, value in values.items():
        sub = schema["properties"].get(name, {})
        path = f"{under}{name}"
        if isinstance(value, dict) and "properties" in sub:
            yield from value_paths(value, sub, f"{path}.")
        else:
            yield path
