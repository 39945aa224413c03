"""The chart's environment, read by the operator that it starts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from finetune_operator.runtime.operator import LEASE_NAME
from finetune_operator.runtime.settings import Env, OperatorSettings
from harness.helm import Values, of_kind, only, render

CHANGED: Values = {
    "watchNamespaces": ["team-a", "team-b"],
    "operator": {
        "workers": 3,
        "controlIntervalSeconds": 30,
        "reportSeconds": 90,
        "leaseSeconds": 60,
        "resyncSeconds": 20,
        "logLevel": "DEBUG",
        "extraEnv": [{"name": "PYTHONWARNINGS", "value": "default"}],
    },
    "trainer": {
        "image": {"repository": "registry.example/trainer", "pullPolicy": "Always"},
        "fakeGpus": True,
    },
}


def container(values: Values) -> dict[str, Any]:
    (found,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def environment(values: Values) -> dict[str, str]:
    """What the operator is told; its namespace as the pod's would be filled in."""
    variables = {it["name"]: it for it in container(values)["env"]}
    namespace = variables.pop(Env.NAMESPACE)
    assert namespace["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    told = {name: str(it["value"]) for name, it in variables.items()}
    return {**told, Env.NAMESPACE.value: "own"}


def test_the_values_reach_the_operator_as_its_settings() -> None:
    told = environment(CHANGED)
    assert told["PYTHONWARNINGS"] == "default"
    settings = OperatorSettings.from_env(told)
    assert settings.cluster.watch_namespaces == ("team-a", "team-b")
    assert settings.cluster.trainer.image == "registry.example/trainer:0.1.0"
    assert settings.cluster.trainer.image_pull_policy == "Always"
    assert settings.cluster.trainer.report_seconds == 90
    assert settings.cluster.trainer.fake_gpus
    assert settings.cluster.control_interval == timedelta(seconds=30)
    assert settings.lease == timedelta(seconds=60)
    assert settings.resync == timedelta(seconds=20)
    assert settings.workers == 3
    assert settings.log_level == "DEBUG"


def test_the_chart_s_own_values_are_the_operator_s_own_defaults() -> None:
    # A name that a restarted container would share with what it was before is no identity.
    told = {**environment({}), Env.IDENTITY.value: "any"}
    assert told.keys() == {it.value for it in Env}
    least = {it.value: told[it] for it in (Env.NAMESPACE, Env.TRAINER_IMAGE, Env.IDENTITY)}
    assert OperatorSettings.from_env(told) == OperatorSettings.from_env(least)


def test_the_port_that_is_probed_is_the_one_that_is_served() -> None:
    (port,) = container({})["ports"]
    assert OperatorSettings.from_env(environment({})).port == port["containerPort"]


def test_the_lease_that_is_granted_is_the_one_that_is_taken() -> None:
    (named,) = (
        rule["resourceNames"]
        for role in of_kind(render(), "Role")
        for rule in role["rules"]
        if "resourceNames" in rule
    )
    assert named == [LEASE_NAME]
