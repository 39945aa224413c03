"""The chart on a real API server: installed, upgraded, uninstalled, by real Helm."""

from __future__ import annotations

import json

import pytest

from harness.controlplane import ControlPlane
from harness.helm import NAMESPACE, OPERATOR, install, only, render, uninstall
from harness.objects import JOB, RATE_CARD, changed
from harness.settled import wait_until_served

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
RATES = changed(RATE_CARD, {"metadata.name": "rates"})
ROLES = "/apis/rbac.authorization.k8s.io/v1"


def test_a_fresh_cluster_takes_the_chart_and_then_a_job(installed: ControlPlane) -> None:
    wait_until_served(installed)
    jobs = "/apis/finetune.dev/v1alpha1/namespaces/default/finetunejobs"
    made = installed.request("POST", jobs, JOB)
    assert made.status == 201, made.message
    assert installed.request("DELETE", f"{jobs}/reviews").status == 200


def test_the_notes_name_the_next_command(bare_plane: ControlPlane) -> None:
    said = install(bare_plane).stdout
    assert f"kubectl -n {NAMESPACE} rollout status deployment/{OPERATOR}" in said
    assert "in all namespaces" in said
    assert "crds.enabled is off" not in said


def test_an_upgrade_changes_the_operator_in_place(installed: ControlPlane) -> None:
    path = f"{DEPLOYMENTS}/{OPERATOR}"
    before = installed.request("GET", path).body
    install(installed, {"operator": {"replicas": 2, "logLevel": "DEBUG"}})
    after = installed.request("GET", path).body
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["spec"]["replicas"] == 2


def test_an_upgrade_from_all_namespaces_to_some_takes_the_wide_role_back(
    installed: ControlPlane,
) -> None:
    installed.kubectl("create", "namespace", "narrowed")
    install(installed, {"watchNamespaces": ["narrowed"]})
    role = installed.request("GET", f"{ROLES}/clusterroles/{OPERATOR}").body
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
    narrow = f"{ROLES}/namespaces/narrowed/roles/{OPERATOR}-jobs"
    assert installed.request("GET", narrow).status == 200
    install(installed)
    assert installed.request("GET", narrow).status == 404


@pytest.mark.parametrize("enabled", [True, False])
def test_an_uninstall_keeps_the_crds_and_what_is_in_them(
    installed: ControlPlane, *, enabled: bool
) -> None:
    """Also when they were left to somebody else in between."""
    wait_until_served(installed)
    uids = {it["metadata"]["uid"] for it in installed.request("GET", CRDS).body["items"]}
    installed.kubectl("apply", "-f", "-", stdin=json.dumps(RATES))
    install(installed, {"crds": {"enabled": enabled}})
    uninstall(installed)
    assert installed.request("GET", f"{DEPLOYMENTS}/{OPERATOR}").status == 404
    assert installed.request("GET", f"{ROLES}/clusterroles/{OPERATOR}").status == 404
    kept = installed.request("GET", CRDS).body["items"]
    assert {it["metadata"]["uid"] for it in kept} == uids
    # Asked through kubectl, which waits while a changed CRD is taken in.
    installed.kubectl("get", "ratecards", "rates")
    install(installed)
    assert {it["metadata"]["uid"] for it in installed.request("GET", CRDS).body["items"]} == uids


def test_a_second_release_in_its_own_namespaces_is_possible(installed: ControlPlane) -> None:
    installed.kubectl("create", "namespace", "second-team")
    values = {"crds": {"enabled": False}, "watchNamespaces": ["second-team"]}
    install(installed, values, namespace="second-system", release="second")
    uninstall(installed, namespace="second-system", release="second")
    assert installed.request("GET", f"{DEPLOYMENTS}/{OPERATOR}").status == 200


def test_the_operator_s_pod_meets_the_restricted_level(installed: ControlPlane) -> None:
    level = "pod-security.kubernetes.io/enforce=restricted"
    installed.kubectl("label", "--overwrite", "namespace", NAMESPACE, level)
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All"
    template = only(render(), "Deployment")["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**template["metadata"], "name": "operator"}
    taken = installed.request("POST", pods, pod)
    assert taken.status == 201, taken.message
    pod["spec"] = {**pod["spec"], "hostNetwork": True}
    refused = installed.request("POST", pods, pod)
    assert "PodSecurity" in refused.message, "the level is not enforced, so this showed nothing"
