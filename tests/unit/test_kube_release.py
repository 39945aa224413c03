"""The fence at a gang's release: the whole gang, alone, and as it was read."""

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.report import Step
from finetune_operator.core.decision import ReleaseGang
from finetune_operator.cost.pods import PodView
from finetune_operator.kube.names import GATE, POD_FINALIZER
from finetune_operator.kube.release import NotReleasedError, check, operations, without_finalizer
from harness.scripted import START

RELEASE = ReleaseGang(step=Step.TRAIN, attempt=3)


def gated(worker: int, attempt: int = 3) -> PodView:
    return PodView(
        uid=f"{attempt}-{worker}",
        step=Step.TRAIN,
        attempt=attempt,
        worker=worker,
        created_at=START,
        released=False,
    )


def running(worker: int, attempt: int) -> PodView:
    return replace(gated(worker, attempt), released=True, bound_at=START, started_at=START)


def ended(worker: int, attempt: int) -> PodView:
    return replace(running(worker, attempt), finished_at=START, exit_code=75)


@pytest.mark.parametrize(
    "pods",
    [
        [gated(0), gated(1)],
        [gated(0), running(1, attempt=3)],  # half of it was let go before a crash
        [gated(0), gated(1), ended(0, attempt=2), ended(1, attempt=2)],
        [gated(0), gated(1), gated(0, attempt=2)],  # never let go, so it holds nothing
    ],
)
def test_a_whole_gang_that_is_alone_is_let_go(pods: list[PodView]) -> None:
    check(RELEASE, pods, workers=2)


@pytest.mark.parametrize(
    ("pods", "message"),
    [
        ([gated(0)], "1 of 2 workers"),
        ([], "0 of 2 workers"),
        ([gated(0), gated(0)], "1 of 2 workers"),
        ([gated(0), replace(gated(1), stopping=True)], "1 of 2 workers"),
        ([gated(0), ended(1, attempt=3)], "1 of 2 workers"),
        ([gated(0), gated(1), running(1, attempt=2)], "worker 1 of attempt 2"),
        ([gated(0), gated(1), running(0, attempt=4)], "worker 0 of attempt 4"),
    ],
)
def test_anything_else_is_not(pods: list[PodView], message: str) -> None:
    with pytest.raises(NotReleasedError, match=message):
        check(RELEASE, pods, workers=2)


# A pod as the API server sends it.
def a_pod(gates: list[str], finalizers: list[str]) -> dict[str, Any]:
    return {
        "metadata": {
            "uid": "u",
            "resourceVersion": "7",
            "annotations": {"batch.kubernetes.io/job-completion-index": "0"},
            "finalizers": finalizers,
        },
        "spec": {"schedulingGates": [{"name": gate} for gate in gates]},
    }


def test_only_our_gate_goes_and_only_from_the_pod_that_was_read() -> None:
    patch = operations(a_pod(["kueue.x-k8s.io/admission", GATE], []), 3, START)
    tests = {one["path"]: one["value"] for one in patch if one["op"] == "test"}
    assert tests == {"/metadata/uid": "u", "/metadata/resourceVersion": "7"}
    stamps = {one["path"]: one["value"] for one in patch if one["op"] == "add"}
    assert stamps == {
        "/metadata/annotations/finetune.dev~1attempt": "3",
        "/metadata/annotations/finetune.dev~1released-at": "2026-03-02T08:00:00Z",
    }
    assert [one["path"] for one in patch if one["op"] == "remove"] == ["/spec/schedulingGates/1"]


def test_a_pod_that_was_let_go_is_left_as_it_is() -> None:
    assert operations(a_pod([], []), 3, START) == []


def test_a_finalizer_goes_only_from_its_own_place() -> None:
    patch = without_finalizer(a_pod([], ["other", POD_FINALIZER]), POD_FINALIZER)
    assert patch == [
        {"op": "test", "path": "/metadata/uid", "value": "u"},
        {"op": "test", "path": "/metadata/finalizers/1", "value": POD_FINALIZER},
        {"op": "remove", "path": "/metadata/finalizers/1"},
    ]
