"""What the operator's account may do once the chart is installed, asked of a real API server."""

from __future__ import annotations

import pytest

from harness.controlplane import ControlPlane
from harness.helm import ACCOUNT, NAMESPACE, install
from harness.settled import wait_until_granted, wait_until_served

LEASE = "finetune-operator"
SERVED = "served"
BEYOND = "beyond"
NARROW = {"watchNamespaces": [SERVED]}

JOBS_RIGHTS = """
finetunejobs.finetune.dev get list watch patch delete
finetunejobs.finetune.dev/status update
jobs.batch get create patch delete
pods get list watch patch delete
configmaps get create patch
services get create patch
networkpolicies.networking.k8s.io get create patch
persistentvolumeclaims get create
events get list create patch
"""
READ_RIGHTS = """
ratecards.finetune.dev get list watch
nodes get list watch
"""
RELEASE_RIGHTS = """
leases.coordination.k8s.io create
usagerecords.finetune.dev get list watch create update
"""
NO_RIGHTS = """
secrets get list watch create update patch delete
pods create update
pods/exec create get
pods/attach create
pods/ephemeralcontainers patch update
pods/eviction create
pods/status patch
serviceaccounts create get
serviceaccounts/token create
roles.rbac.authorization.k8s.io create bind escalate
clusterroles.rbac.authorization.k8s.io create bind escalate
clusterrolebindings.rbac.authorization.k8s.io create
nodes patch update delete
ratecards.finetune.dev create update patch delete
finetunejobs.finetune.dev create update deletecollection
usagerecords.finetune.dev delete deletecollection
deployments.apps get create
configmaps list update delete
persistentvolumeclaims list delete patch
customresourcedefinitions.apiextensions.k8s.io list patch
validatingadmissionpolicies.admissionregistration.k8s.io get patch delete
namespaces get list watch create update patch delete
users impersonate
"""


def rights(text: str) -> list[tuple[str, str]]:
    """Pairs of verb and resource out of a table of lines."""
    return [
        (verb, resource)
        for resource, *verbs in map(str.split, text.strip().splitlines())
        for verb in verbs
    ]


def may(plane: ControlPlane, verb: str, resource: str, namespace: str, *, name: str = "") -> bool:
    """Whether the account may; without a name, do it to any object of the namespace."""
    full, _, subresource = resource.partition("/")
    plural, _, group = full.partition(".")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": ACCOUNT,
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"],
            "resourceAttributes": {
                "verb": verb,
                "group": group,
                "resource": plural,
                "subresource": subresource,
                "namespace": namespace,
                "name": name,
            },
        },
    }
    reply = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert reply.status == 201, reply.message
    return bool(reply.body["status"]["allowed"])


def granted(plane: ControlPlane, text: str, namespace: str) -> list[tuple[str, str]]:
    return [(verb, it) for verb, it in rights(text) if may(plane, verb, it, namespace)]


@pytest.fixture(scope="module")
def namespaces(bare_plane: ControlPlane) -> None:
    for name in (SERVED, BEYOND):
        bare_plane.kubectl("create", "namespace", name)


@pytest.fixture
def wide(bare_plane: ControlPlane, namespaces: None) -> ControlPlane:
    """Give the API server with the chart serving all namespaces."""
    install(bare_plane)
    wait_until_granted(bare_plane)
    return bare_plane


@pytest.fixture
def narrow(bare_plane: ControlPlane, namespaces: None) -> ControlPlane:
    """Give the API server with the chart serving one namespace."""
    install(bare_plane, NARROW)
    wait_until_granted(bare_plane)
    return bare_plane


def test_kubectl_says_what_the_account_may(wide: ControlPlane) -> None:
    def can_i(*question: str) -> str:
        asked = ("auth", "can-i", "--as", ACCOUNT, "-n", BEYOND, *question)
        done = wide.kubectl(*asked, check=False)
        return (done.stdout + done.stderr).strip()

    wait_until_served(wide)
    assert can_i("update", "finetunejobs.finetune.dev", "--subresource=status") == "yes"
    assert can_i("create", "jobs.batch") == "yes"
    assert can_i("get", "secrets") == "no"
    assert can_i("create", "pods") == "no"
    assert can_i("create", "pods", "--subresource=exec") == "no"


def test_the_account_may_what_it_needs_everywhere(wide: ControlPlane) -> None:
    for text, namespace in (
        (JOBS_RIGHTS, BEYOND),
        (READ_RIGHTS, ""),
        (RELEASE_RIGHTS, NAMESPACE),
    ):
        assert granted(wide, text, namespace) == rights(text)


def test_the_account_may_nothing_else(wide: ControlPlane) -> None:
    for namespace in (SERVED, BEYOND, NAMESPACE, "kube-system"):
        assert granted(wide, NO_RIGHTS, namespace) == []
    for namespace in (SERVED, BEYOND):
        assert granted(wide, RELEASE_RIGHTS, namespace) == []


def test_of_leases_the_account_has_the_operator_s_alone(wide: ControlPlane) -> None:
    for verb in ("get", "update"):
        assert may(wide, verb, "leases.coordination.k8s.io", NAMESPACE, name=LEASE)
        assert not may(wide, verb, "leases.coordination.k8s.io", NAMESPACE, name="another")
        assert not may(wide, verb, "leases.coordination.k8s.io", "kube-system", name=LEASE)


def test_with_namespaces_named_the_account_writes_in_these_alone(narrow: ControlPlane) -> None:
    assert granted(narrow, JOBS_RIGHTS, SERVED) == rights(JOBS_RIGHTS)
    assert granted(narrow, JOBS_RIGHTS, BEYOND) == []
    assert granted(narrow, JOBS_RIGHTS, NAMESPACE) == []
    assert granted(narrow, READ_RIGHTS, "") == rights(READ_RIGHTS)
    assert granted(narrow, RELEASE_RIGHTS, NAMESPACE) == rights(RELEASE_RIGHTS)


@pytest.mark.parametrize(
    ("role", "verbs"),
    [("view", {"get", "list", "watch"}), ("edit", {"get", "list", "watch", "create", "delete"})],
)
def test_edit_and_view_are_told_to_take_the_job_roles_in(
    wide: ControlPlane, role: str, verbs: set[str]
) -> None:
    """Without a controller manager nobody sums them up, so what would be summed is looked at."""
    roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles"
    selectors = wide.request("GET", f"{roles}/{role}").body["aggregationRule"]
    (labels,) = (it["matchLabels"] for it in selectors["clusterRoleSelectors"])
    query = "%2C".join(f"{key}%3D{value}" for key, value in labels.items())
    chosen = wide.request("GET", f"{roles}?labelSelector={query}").body["items"]
    given = {
        verb
        for it in chosen
        for rule in it["rules"] or ()
        if "finetunejobs" in rule["resources"]
        for verb in rule["verbs"]
    }
    assert verbs <= given
    assert role != "view" or given == verbs
