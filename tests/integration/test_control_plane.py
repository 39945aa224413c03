"""The test cluster itself: a real API server that takes what the project installs."""

from __future__ import annotations

from harness.controlplane import ControlPlane
from harness.processes import program


def test_the_api_server_is_a_real_one_and_ready(cluster: ControlPlane) -> None:
    assert cluster.ready()
    version = cluster.request("GET", "/version").body
    server = program("kube-apiserver")
    assert version["gitVersion"] != "v0.0.0-master+$Format:%H$", f"{server} has no version"
    assert int(version["minor"].rstrip("+")) >= 34


def test_a_request_without_credentials_is_refused(cluster: ControlPlane) -> None:
    denied = cluster.kubectl("--token=wrong", "get", "namespaces", check=False)
    assert denied.returncode != 0
    assert "Unauthorized" in denied.stderr or "logged in" in denied.stderr


def test_every_custom_resource_definition_is_established(cluster: ControlPlane) -> None:
    listed = cluster.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions").body
    assert listed["items"], "crds/ installed nothing"
    for definition in listed["items"]:
        conditions = {it["type"]: it for it in definition["status"]["conditions"]}
        name = definition["metadata"]["name"]
        assert conditions["Established"]["status"] == "True", name
        # A schema that is not structural is stored, but prunes and validates nothing.
        assert conditions.get("NonStructuralSchema", {}).get("status") != "True", name


def test_each_test_has_a_namespace_of_its_own(cluster: ControlPlane, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    assert cluster.request("GET", path).body["items"] == []
