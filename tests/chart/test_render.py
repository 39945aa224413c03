"""What the chart makes of its values: rules that hold for every object, rendered by real Helm."""

from __future__ import annotations

import re

import pytest
import yaml

from finetune_api.schema import RESOURCES
from harness.helm import (
    ACCOUNT,
    CHART,
    KUBE_VERSION,
    NAMESPACE,
    OPERATOR,
    Values,
    helm,
    of_kind,
    only,
    render,
)
from harness.objects import Object
from harness.processes import REPOSITORY

DIGEST = "sha256:" + "0" * 64
FULL: Values = {
    "watchNamespaces": ["team-a", "team-b"],
    "operator": {
        "replicas": 2,
        "image": {"repository": "registry.example:5000/ops/operator", "tag": "2.0"},
        "imagePullSecrets": ["registry"],
        "extraEnv": [{"name": "PYTHONWARNINGS", "value": "default"}],
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"team": "ml", "app.kubernetes.io/name": "another"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
    },
    "trainer": {
        "image": {
            "repository": "registry.example/trainer",
            "digest": DIGEST,
            "pullPolicy": "Always",
        }
    },
    "serviceAccount": {"annotations": {"example.com/role": "x"}},
    "crds": {"keep": False},
    "metrics": {"service": {"labels": {"release": "prometheus"}, "annotations": {"a": "b"}}},
}
VARIANTS: dict[str, Values] = {
    "default": {},
    "full": FULL,
    "bare": {
        "crds": {"enabled": False},
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "made-by-hand"},
        "admissionPolicy": {"enabled": False},
        "metrics": {"service": {"enabled": False}},
    },
}
READING = {"get", "list", "watch"}


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def objects(request: pytest.FixtureRequest) -> list[Object]:
    """Give what the chart makes of one set of values."""
    return render(request.param)


def rules(roles: list[Object]) -> list[dict[str, list[str]]]:
    return [rule for role in roles for rule in role["rules"]]


def roles_of_the_operator(objects: list[Object], binding_kind: str) -> list[Object]:
    """The roles that bindings of that kind give to the operator's account."""
    subject = {"kind": "ServiceAccount", "name": OPERATOR, "namespace": NAMESPACE}
    roles = {
        (obj["kind"], obj["metadata"].get("namespace"), obj["metadata"]["name"]): obj
        for obj in objects
    }
    return [
        roles[
            binding["roleRef"]["kind"],
            binding["metadata"].get("namespace"),
            binding["roleRef"]["name"],
        ]
        for binding in of_kind(objects, binding_kind)
        if subject in binding["subjects"]
    ]


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)
def test_helm_finds_nothing_to_complain_of(values: Values) -> None:
    done = helm("lint", "--strict", "--kube-version", KUBE_VERSION, str(CHART), values=values)
    assert "[WARNING]" not in done.stdout
    assert "[ERROR]" not in done.stdout


def test_the_chart_carries_the_project_s_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert f'version = "{chart["version"]}"' in project
    assert chart["appVersion"] == chart["version"]


def test_the_chart_s_crds_are_those_of_the_project() -> None:
    copied = {path.name: path.read_text() for path in (CHART / "files" / "crds").iterdir()}
    assert copied == {path.name: path.read_text() for path in (REPOSITORY / "crds").iterdir()}, (
        "run `make generate`"
    )


def test_crds_are_rendered_as_generated_and_kept() -> None:
    rendered = {it["metadata"]["name"]: it for it in of_kind(render(), "CustomResourceDefinition")}
    assert rendered.keys() == {resource.name for resource in RESOURCES}
    for name, crd in rendered.items():
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == yaml.safe_load((REPOSITORY / "crds" / f"{name}.yaml").read_text())


def test_crds_that_are_not_to_be_kept_are_rendered_as_generated() -> None:
    rendered = of_kind(render({"crds": {"keep": False}}), "CustomResourceDefinition")
    assert len(rendered) == len(RESOURCES)
    for crd in rendered:
        file = REPOSITORY / "crds" / f"{crd['metadata']['name']}.yaml"
        assert crd == yaml.safe_load(file.read_text())


def test_each_part_can_be_left_out() -> None:
    assert {it["kind"] for it in render(VARIANTS["bare"])} == {"Deployment", "ClusterRole"}
    people = of_kind(render(VARIANTS["bare"]), "ClusterRole")
    assert {it["metadata"]["name"] for it in people} == {
        "finetune-operator-job-editor",
        "finetune-operator-job-viewer",
    }


@pytest.mark.parametrize("release", ["finetune", "a" * 53, "finetune-operator", "x"])
def test_names_and_label_values_have_at_most_63_characters(release: str) -> None:
    for obj in render(FULL, release=release):
        name = obj["metadata"]["name"]
        assert len(name) <= 63, name
        if obj["kind"] != "CustomResourceDefinition":
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name), name
            assert all(len(it) <= 63 for it in obj["metadata"]["labels"].values())


def test_no_two_objects_have_the_same_name(objects: list[Object]) -> None:
    keys = [(it["kind"], it["metadata"].get("namespace"), it["metadata"]["name"]) for it in objects]
    assert len(keys) == len(set(keys))


def test_every_container_is_restricted(objects: list[Object]) -> None:
    pod = only(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all("emptyDir" in volume for volume in pod["volumes"])
    for container in pod["containers"] + pod.get("initContainers", []):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_no_role_has_a_wildcard_a_secret_or_a_way_to_more(objects: list[Object]) -> None:
    for rule in rules(of_kind(objects, "ClusterRole") + of_kind(objects, "Role")):
        words = rule["apiGroups"] + rule["resources"] + rule["verbs"]
        assert not any("*" in word for word in words), rule
        assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), rule
        assert not {"secrets", "serviceaccounts", "serviceaccounts/token"} & set(rule["resources"])
        assert rule["apiGroups"] != ["rbac.authorization.k8s.io"]
        if "pods" in rule["resources"]:
            assert "create" not in rule["verbs"], "pods are the Job controller's to make"
        assert not {"pods/exec", "pods/attach", "pods/ephemeralcontainers"} & set(rule["resources"])


def test_records_are_deleted_by_nobody(objects: list[Object]) -> None:
    for rule in rules(of_kind(objects, "ClusterRole") + of_kind(objects, "Role")):
        if "usagerecords" in rule["resources"]:
            assert not {"delete", "deletecollection"} & set(rule["verbs"])


def test_with_namespaces_named_the_operator_only_reads_beyond_them() -> None:
    objects = render(FULL)
    cluster = rules(roles_of_the_operator(objects, "ClusterRoleBinding"))
    assert cluster, "rate cards and nodes belong to no namespace"
    assert {verb for rule in cluster for verb in rule["verbs"]} <= READING
    assert {it for rule in cluster for it in rule["resources"]} == {"ratecards", "nodes"}
    roles = roles_of_the_operator(objects, "RoleBinding")
    assert [it["metadata"]["namespace"] for it in roles] == [
        "team-a",
        "team-b",
        "finetune-system",
    ]


def reads_the_cluster(rule: dict[str, list[str]]) -> bool:
    return rule["resources"] in (["ratecards"], ["nodes"])


def test_each_named_namespace_is_given_what_all_would_be() -> None:
    everywhere = rules(roles_of_the_operator(render(), "ClusterRoleBinding"))
    for role in roles_of_the_operator(render(FULL), "RoleBinding")[:2]:
        assert role["rules"] == [rule for rule in everywhere if not reads_the_cluster(rule)]


def test_an_editor_may_not_write_a_status_nor_anything_but_jobs() -> None:
    people = [it for it in of_kind(render(), "ClusterRole") if "-job-" in it["metadata"]["name"]]
    assert len(people) == 2
    for rule in rules(people):
        assert rule["resources"] == ["finetunejobs"]


@pytest.mark.parametrize("aggregate", [True, False])
def test_edit_and_view_gain_the_jobs_only_if_wished(*, aggregate: bool) -> None:
    labels = {
        it["metadata"]["name"]: it["metadata"]["labels"]
        for it in of_kind(render({"rbac": {"aggregate": aggregate}}), "ClusterRole")
    }
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    gained = {
        (name, label.removeprefix(prefix))
        for name, of_role in labels.items()
        for label in of_role
        if label.startswith(prefix)
    }
    wished = {
        ("finetune-operator-job-editor", "admin"),
        ("finetune-operator-job-editor", "edit"),
        ("finetune-operator-job-viewer", "view"),
    }
    assert gained == (wished if aggregate else set())


def test_the_admission_policy_speaks_of_the_account_that_the_operator_runs_as() -> None:
    for values, account in (
        ({}, ACCOUNT),
        ({"serviceAccount": {"name": "another"}}, f"system:serviceaccount:{NAMESPACE}:another"),
    ):
        objects = render(values)
        pod = only(objects, "Deployment")["spec"]["template"]["spec"]
        assert account.endswith(f":{pod['serviceAccountName']}")
        for policy in of_kind(objects, "ValidatingAdmissionPolicy"):
            (condition,) = policy["spec"]["matchConditions"]
            assert condition["expression"] == f'request.userInfo.username == "{account}"'


def images(values: Values) -> tuple[str, str]:
    """The operator's and the trainer's image."""
    (container,) = only(render(values), "Deployment")["spec"]["template"]["spec"]["containers"]
    told = {it["name"]: it.get("value") for it in container["env"]}
    return container["image"], str(told["FINETUNE_TRAINER_IMAGE"])


def test_an_image_goes_by_digest_else_by_tag_else_by_the_chart_s_version() -> None:
    assert images({}) == ("finetune-operator:0.1.0", "finetune-trainer:0.1.0")
    assert images(FULL) == (
        "registry.example:5000/ops/operator:2.0",
        f"registry.example/trainer@{DIGEST}",
    )


def test_what_is_selected_can_not_be_changed_by_a_value() -> None:
    for values in VARIANTS.values():
        deployment = only(render(values), "Deployment")
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert selector == {
            "app.kubernetes.io/name": "finetune-operator",
            "app.kubernetes.io/instance": "finetune",
        }
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_the_metrics_service_reaches_the_operator_s_port() -> None:
    objects = render(FULL)
    service = only(objects, "Service")
    template = only(objects, "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    named = {it["name"]: it["containerPort"] for it in template["spec"]["containers"][0]["ports"]}
    assert named[port["targetPort"]] == port["port"] == 8080
    assert service["metadata"]["labels"]["release"] == "prometheus"
