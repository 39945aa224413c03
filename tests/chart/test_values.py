"""The chart's values: a mistake is refused with its place, and every value is obeyed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from harness.helm import CHART, KUBE_VERSION, Values, helm, render

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

# For each value another one than the chart's own.
OTHER: dict[str, Any] = {
    "fullnameOverride": "another",
    "watchNamespaces": ["team-a"],
    "operator.replicas": 2,
    "operator.image.repository": "another",
    "operator.image.tag": "another",
    "operator.image.digest": "sha256:" + "0" * 64,
    "operator.image.pullPolicy": "Always",
    "operator.imagePullSecrets": ["another"],
    "operator.workers": 2,
    "operator.controlIntervalSeconds": 2,
    "operator.reportSeconds": 2,
    "operator.leaseSeconds": 2,
    "operator.resyncSeconds": 30,
    "operator.logLevel": "DEBUG",
    "operator.extraEnv": [{"name": "A", "value": "b"}],
    "operator.podAnnotations": {"a": "b"},
    "operator.podLabels": {"a": "b"},
    "operator.resources": {"limits": {"memory": "1Gi"}},
    "operator.nodeSelector": {"a": "b"},
    "operator.tolerations": [{"operator": "Exists"}],
    "operator.affinity": {"nodeAffinity": {}},
    "operator.priorityClassName": "another",
    "trainer.image.repository": "another",
    "trainer.image.tag": "another",
    "trainer.image.digest": "sha256:" + "0" * 64,
    "trainer.image.pullPolicy": "Always",
    "trainer.fakeGpus": True,
    "serviceAccount.create": False,
    "serviceAccount.name": "another",
    "serviceAccount.annotations": {"a": "b"},
    "rbac.create": False,
    "rbac.aggregate": False,
    "crds.enabled": False,
    "crds.keep": False,
    "admissionPolicy.enabled": False,
    "metrics.service.enabled": False,
    "metrics.service.annotations": {"a": "b"},
    "metrics.service.labels": {"a": "b"},
}
BESIDE: dict[str, Values] = {"serviceAccount.create": {"name": "finetune-operator"}}


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


def test_no_value_is_accepted_and_ignored() -> None:
    assert set(OTHER) == set(value_paths(VALUES, SCHEMA))
    default = render()
    ignored = [path for path, value in OTHER.items() if render(nested(path, value)) == default]
    assert not ignored


def nested(path: str, value: Any) -> Values:
    """The values in which this one stands at its path, and beside it what it needs."""
    *parents, last = path.split(".")
    values: Values = {last: value, **BESIDE.get(path, {})}
    for parent in reversed(parents):
        values = {parent: values}
    return values


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
