"""What RBAC can't tell apart: the chart's admission policies, obeyed by a real API server."""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest

from harness.controlplane import ControlPlane
from harness.helm import ACCOUNT, install
from harness.objects import JOB, Object, changed
from harness.settled import wait_until_served

NAMESPACE = "admission"
LABELS = {"app.kubernetes.io/managed-by": "finetune-operator"}
# Guards against a hang alone: a policy is obeyed some moments after it is made.
OBEYED_WITHIN_SECONDS = 120

POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "generateName": "rank-",
        "namespace": NAMESPACE,
        "labels": LABELS,
        "annotations": {"note": "kept"},
        "finalizers": ["example.com/other", "finetune.dev/metered"],
    },
    "spec": {
        "schedulingGates": [{"name": "example.com/topology"}, {"name": "finetune.dev/gang"}],
        "containers": [{"name": "trainer", "image": "trainer:1"}],
    },
}
CONFIG_MAP: Object = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "own", "namespace": NAMESPACE, "labels": LABELS},
    "data": {"run.json": "{}"},
}
UNLABELED = copy.deepcopy(CONFIG_MAP) | {"metadata": {"name": "foreign", "namespace": NAMESPACE}}
STAMP = "/metadata/annotations/finetune.dev~1attempt"

Patch = list[dict[str, Any]]


def add(path: str, value: Any) -> Patch:
    return [{"op": "add", "path": path, "value": value}]


def remove(path: str) -> Patch:
    return [{"op": "remove", "path": path}]


def refusal(plane: ControlPlane, *command: str, stdin: str | None = None) -> str:
    """Run kubectl as the operator, and return what the API server refused; empty if nothing."""
    done = plane.kubectl(
        *("--as", ACCOUNT, "--namespace", NAMESPACE, *command), stdin=stdin, check=False
    )
    return done.stderr if done.returncode else ""


def patched(plane: ControlPlane, pod: str, patch: Patch, *options: str) -> str:
    """What the API server refuses of a JSON patch of the pod, made by the operator."""
    text = json.dumps(patch)
    return refusal(plane, "patch", "pod", pod, "--type=json", f"--patch={text}", *options)


def created(plane: ControlPlane, obj: Object) -> str:
    """Create an object as the administrator, and return its name."""
    output = plane.kubectl("create", "--output=name", "--filename=-", stdin=json.dumps(obj)).stdout
    return output.strip().split("/")[1]


@pytest.fixture(scope="module")
def guarded(bare_plane: ControlPlane) -> ControlPlane:
    """Give the API server once it obeys the chart's policies, with a namespace to try them in."""
    install(bare_plane)
    bare_plane.kubectl("create", "namespace", NAMESPACE)
    # The controller that makes it does not run here.
    bare_plane.kubectl("create", "serviceaccount", "default", "--namespace", NAMESPACE)
    pod = created(bare_plane, POD)
    wait_until_served(bare_plane)
    created(bare_plane, changed(JOB, {"metadata.namespace": NAMESPACE}))
    give_up = time.monotonic() + OBEYED_WITHIN_SECONDS
    while not (
        patched(bare_plane, pod, add("/metadata/labels/x", "y"), "--dry-run=server")
        and refusal(bare_plane, "create", "configmap", "unlabeled", "--dry-run=server")
        and refusal(bare_plane, "delete", "finetunejob", "reviews", "--dry-run=server")
    ):
        assert time.monotonic() < give_up, "the policies are not obeyed"
        time.sleep(0.2)
    return bare_plane


@pytest.fixture
def pod(guarded: ControlPlane) -> str:
    """Make a gated pod as the Job controller would, and give its name."""
    return created(guarded, POD)


def test_the_operator_may_release_a_pod_and_let_it_go(guarded: ControlPlane, pod: str) -> None:
    uid = guarded.kubectl("get", "pod", pod, "-n", NAMESPACE, "-o=jsonpath={.metadata.uid}").stdout
    same: Patch = [{"op": "test", "path": "/metadata/uid", "value": uid}]
    release = same + add(STAMP, "1") + remove("/spec/schedulingGates/1")
    assert patched(guarded, pod, release) == ""
    assert patched(guarded, pod, same + add(STAMP, "2")) == ""
    assert refusal(guarded, "delete", "pod", pod, "--wait=false") == ""
    assert patched(guarded, pod, same + remove("/metadata/finalizers/1")) == ""


def test_the_first_annotation_and_the_last_finalizer_are_no_exception(
    guarded: ControlPlane,
) -> None:
    bare = changed(POD, {"metadata.finalizers": ["finetune.dev/metered"]})
    bare["metadata"].pop("annotations")
    bare["spec"]["schedulingGates"].pop(0)
    pod = created(guarded, bare)
    stamps = {"finetune.dev/attempt": "1", "finetune.dev/released-at": "2026-03-02T08:00:00Z"}
    released = add("/metadata/annotations", stamps)
    assert patched(guarded, pod, released + remove("/spec/schedulingGates")) == ""
    assert patched(guarded, pod, remove("/metadata/finalizers")) == ""


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (add("/spec/containers/0/image", "another:1"), "nothing in a pod's spec but"),
        (add("/spec/activeDeadlineSeconds", 60), "nothing in a pod's spec but"),
        (add("/spec/nodeSelector", {"a": "b"}), "nothing in a pod's spec but"),
        (add("/spec/tolerations/-", {"operator": "Exists"}), "nothing in a pod's spec but"),
        (remove("/spec/schedulingGates/0"), "no scheduling gate but"),
        (remove("/spec/schedulingGates"), "no scheduling gate but"),
        (remove("/metadata/finalizers/0"), "no finalizer of a pod but"),
        (add("/metadata/finalizers/-", "example.com/new"), "no finalizer of a pod but"),
        (add("/metadata/annotations/note", "changed"), "no annotation of a pod but"),
        (remove("/metadata/annotations/note"), "no annotation of a pod but"),
        (remove("/metadata/annotations"), "no annotation of a pod but"),
        (add("/metadata/annotations/new", "x"), "no annotation of a pod but"),
        (add("/metadata/labels/new", "x"), "no label, owner or other metadata"),
        # By either policy, whichever is asked first.
        (remove("/metadata/labels"), "the operator may"),
        (
            add(
                "/metadata/ownerReferences",
                [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "b"}],
            ),
            "no label, owner or other metadata",
        ),
        (
            add(STAMP, "1") + remove("/spec/schedulingGates/1") + add("/metadata/labels/x", "y"),
            "no label, owner or other metadata",
        ),
    ],
)
def test_the_operator_may_change_nothing_else_of_a_pod(
    guarded: ControlPlane, pod: str, patch: Patch, message: str
) -> None:
    said = patched(guarded, pod, patch)
    assert "ValidatingAdmissionPolicy" in said
    assert message in said


def test_others_are_not_held_by_the_policies(guarded: ControlPlane, pod: str) -> None:
    text = json.dumps(add("/spec/containers/0/image", "another:1"))
    guarded.kubectl("patch", "pod", pod, "-n", NAMESPACE, "--type=json", f"--patch={text}")
    created(guarded, changed(UNLABELED, {"metadata.name": "by-another"}))


def test_the_operator_writes_what_it_made(guarded: ControlPlane) -> None:
    assert refusal(guarded, "create", "--filename=-", stdin=json.dumps(CONFIG_MAP)) == ""
    assert merged(guarded, "own", {"data": {"report.json": "{}"}}) == ""
    assert "only what is labeled" in merged(guarded, "own", {"metadata": {"labels": None}})


def test_the_operator_writes_nothing_that_it_did_not_make(guarded: ControlPlane) -> None:
    foreign = created(guarded, UNLABELED)
    stranger = created(guarded, changed(POD, {"metadata.labels": {"app": "of-somebody"}}))
    gate = remove("/spec/schedulingGates/1")
    unlabeled = json.dumps(changed(UNLABELED, {"metadata.name": "fresh"}))
    for said in (
        refusal(guarded, "create", "--filename=-", stdin=unlabeled),
        merged(guarded, foreign, {"data": {"run.json": "changed"}}),
        merged(guarded, foreign, {"metadata": {"labels": LABELS}}),
        refusal(guarded, "delete", "pod", stranger, "--wait=false"),
        patched(guarded, stranger, gate),
    ):
        assert "the operator may write only what is labeled" in said


@pytest.mark.parametrize(
    ("phase", "policy", "allowed"),
    [
        ("Complete", {"ttlSecondsAfterFinished": 0}, True),
        ("Failed", {"ttlSecondsAfterFinished": 60}, True),
        ("Complete", {}, False),
        ("Suspended", {"ttlSecondsAfterFinished": 0}, False),
        ("Training", {"ttlSecondsAfterFinished": 0}, False),
        (None, {"ttlSecondsAfterFinished": 0}, False),
    ],
)
def test_the_operator_deletes_only_jobs_that_are_over_and_say_so(
    guarded: ControlPlane, phase: str | None, policy: Object, *, allowed: bool
) -> None:
    name = f"job-{phase}-{len(policy)}".lower()
    job = changed(JOB, {"metadata": {"name": name, "namespace": NAMESPACE}, "spec.policy": policy})
    created(guarded, job)
    if phase is not None:
        text = json.dumps({"status": {"phase": phase}})
        status = ("--subresource=status", "--type=merge", f"--patch={text}")
        guarded.kubectl("patch", "finetunejob", name, "-n", NAMESPACE, *status)
    said = refusal(guarded, "delete", "finetunejob", name, "--wait=false")
    assert (said == "") == allowed
    assert allowed or "the operator may delete only a FineTuneJob that is over" in said


def merged(plane: ControlPlane, config_map: str, change: Object) -> str:
    """What the API server refuses of a change of the ConfigMap, made by the operator."""
    text = json.dumps(change)
    return refusal(plane, "patch", "configmap", config_map, "--type=merge", f"--patch={text}")
