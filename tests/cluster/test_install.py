"""The chart on a real cluster: what runs, what it holds, and what it may do."""

from __future__ import annotations

import pytest

from harness.helm import ACCOUNT, NAMESPACE, OPERATOR, Values
from harness.realcluster import get, kubectl, operator_pod, wait_until

_BUILD_TOOLS = ("gcc", "cc", "make", "git", "uv", "pip")


def in_operator(*command: str) -> str:
    """Run a command in the operator's container and return what it said, also when it fails."""
    pod = operator_pod()["metadata"]["name"]
    return kubectl("exec", "-n", NAMESPACE, pod, "--", *command, check=False).strip()


def test_the_operator_runs_as_nobody_of_note_in_a_file_system_that_it_cannot_change(
    installed: Values,
) -> None:
    assert in_operator("id", "-u") == "10001"
    assert "Read-only file system" in in_operator("touch", "/opt/anything")
    assert [tool for tool in _BUILD_TOOLS if in_operator("which", tool).startswith("/")] == []
    assert "No module named 'torch'" in in_operator("python", "-c", "import torch")


def test_both_probes_hold_and_the_lease_is_the_pods(installed: Values) -> None:
    pod = operator_pod()
    (container,) = pod["spec"]["containers"]
    assert {"livenessProbe", "readinessProbe"} <= container.keys()
    ready = [one for one in pod["status"]["conditions"] if one["type"] == "Ready"]
    assert ready[0]["status"] == "True"
    name = pod["metadata"]["name"]
    wait_until(
        lambda: name in get("lease", OPERATOR, "-n", NAMESPACE)["spec"]["holderIdentity"],
        "the Lease",
    )
    for path in ("healthz", "readyz", "metrics"):
        address = f"/api/v1/namespaces/{NAMESPACE}/services/{OPERATOR}-metrics:8080/proxy/{path}"
        assert kubectl("get", "--raw", address)


def test_the_account_that_is_asked_about_is_the_operators(installed: Values) -> None:
    """Of an account that nobody has, every answer below would be no."""
    assert may("create", "jobs.batch") == "yes"


@pytest.mark.parametrize(
    ("verb", "what"),
    [
        ("get", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("update", "nodes"),
        ("create", "clusterroles"),
        ("delete", "persistentvolumeclaims"),
        ("delete", "usagerecords"),
        ("impersonate", "serviceaccounts"),
    ],
)
def test_the_operators_account_may_not(installed: Values, verb: str, what: str) -> None:
    assert may(verb, what) == "no"


def may(verb: str, what: str) -> str:
    """Ask the API server whether the operator may do something in every namespace."""
    question = ("auth", "can-i", verb, what, f"--as={ACCOUNT}", "--all-namespaces")
    # A reason, or a warning, may follow the answer.
    return kubectl(*question, check=False).split()[0]
