"""Waits until an API server goes by what was just installed: it learns of it a moment later."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import uuid4

from finetune_api.schema import RESOURCES
from harness.controlplane import ControlPlane
from harness.objects import Object

RBAC = "rbac.authorization.k8s.io"
# Guards against a hang alone.
GIVE_UP_SECONDS = 120


def wait_until_served(plane: ControlPlane) -> None:
    """Return once kubectl, too, finds the custom resources: discovery follows a CRD later."""
    names = [f"crd/{resource.name}" for resource in RESOURCES]
    plane.kubectl("wait", "--for=condition=Established", "--timeout=120s", *names)
    group = RESOURCES[0].name.partition(".")[2]
    asked = ("api-resources", f"--api-group={group}", "--cached=false", "--output=name")
    wanted = {resource.name for resource in RESOURCES}
    _until(
        lambda: wanted <= set(plane.kubectl(*asked, check=False).stdout.split()),
        "the custom resources to be discovered",
    )


def wait_until_granted(plane: ControlPlane) -> None:
    """Return once the API server goes by all roles and bindings that were written before.

    It reads each of their four kinds in the order of writing: once it goes by one that is written
    now, it goes by those that came before.
    """
    for kind, scope in (("Role", "namespaces/default/"), ("ClusterRole", "")):
        _wait_until_goes_by(plane, kind, f"/apis/{RBAC}/v1/{scope}{kind.lower()}")


def _wait_until_goes_by(plane: ControlPlane, kind: str, path: str) -> None:
    """Write a role of that kind and a binding of it, and return once the API server obeys them."""
    name = f"settled-{uuid4().hex[:8]}"
    rule = {"apiGroups": [name], "resources": ["seen"], "verbs": ["get"]}
    role: Object = {"metadata": {"name": name}, "rules": [rule]}
    binding: Object = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": kind, "name": name},
        "subjects": [{"apiGroup": RBAC, "kind": "User", "name": name}],
    }
    for collection, obj in ((f"{path}s", role), (f"{path}bindings", binding)):
        reply = plane.request("POST", collection, obj)
        assert reply.status == 201, reply.message
    _until(lambda: _granted(plane, name), f"a new {kind} to be obeyed")
    for collection in (f"{path}s", f"{path}bindings"):
        assert plane.request("DELETE", f"{collection}/{name}").status == 200


def _granted(plane: ControlPlane, name: str) -> bool:
    """Whether the user of that name may do what the role of that name lets it."""
    review = {
        "spec": {
            "user": name,
            "resourceAttributes": {
                "verb": "get",
                "group": name,
                "resource": "seen",
                "namespace": "default",
            },
        },
    }
    reply = plane.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert reply.status == 201, reply.message
    return bool(reply.body["status"]["allowed"])


def _until(holds: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(0.1)
