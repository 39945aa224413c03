"""Jobs that go: deleted in order, with their namespace, by force, or with the node under them."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.phases import Phase
from finetune_api.report import ExitCode, Step
from finetune_api.usage import EndEvidence
from harness.cluster import Cluster
from harness.installation import Installation, a_job, installed, make_claim, training
from harness.kubelet import SimulatedKubelet
from harness.kubeletaccount import Entry
from harness.kubeletscript import Script
from harness.stories import (
    CHILDREN,
    COMPLETED,
    assert_books_closed,
    kept_pods,
    story,
    until_training,
)

SLOWLY = Script(step_seconds=0.3)


@pytest.mark.parametrize("when_deleted", ["Retain", "Delete"])
def test_a_job_that_is_deleted_while_it_trains_saves_and_leaves_what_storage_says(
    installation: Installation, kubelet: SimulatedKubelet, when_deleted: str
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    before = {kind: len(installation.children(kind)) for kind in CHILDREN}
    with installation.operator():
        uid = installation.apply(a_job(storage={"size": "1Gi", "whenDeleted": when_deleted}))
        until_training(installation)
        installation.cluster.kubectl("delete", "ftj", "reviews", "-n", installation.namespace)
        assert installation.is_gone("reviews")
        ended = training(kubelet, installation.namespace, 2)
        assert [entry.exit_code for entry in ended] == [ExitCode.STOPPED] * 2
        assert_books_closed(installation, kubelet, uid)
        for kind in CHILDREN:
            installation.until(
                lambda kind=kind: len(installation.children(kind)) == before[kind],  # type: ignore[misc]  # a default
                f"{kind} to go",
            )
    workspace = f"reviews-{uid[:6]}-workspace"

    def stays() -> bool:
        claims = installation.children("v1 persistentvolumeclaims")
        return workspace in {claim["metadata"]["name"] for claim in claims}

    if when_deleted == "Retain":
        assert stays()
    else:
        installation.until(lambda: not stays(), "the workspace to go")


def test_a_finished_job_goes_at_once_when_it_is_deleted_without_an_operator(
    installation: Installation,
) -> None:
    with installation.operator():
        installation.apply(a_job())
        installation.wait_over("reviews")
    installation.delete("reviews")
    assert installation.is_gone("reviews")


def test_a_namespace_that_is_deleted_while_a_job_trains_goes_and_its_use_is_recorded(
    cluster: Cluster, kubelet: SimulatedKubelet, namespace: str, tmp_path: Path
) -> None:
    make_claim(cluster, namespace, "sources")
    kubelet.play(namespace, SLOWLY)
    with (
        installed(cluster, namespace, tmp_path, everywhere=True) as installation,
        installation.operator(),
    ):
        uid = installation.apply(a_job())
        until_training(installation)
        path = f"/api/v1/namespaces/{namespace}"
        assert cluster.request("DELETE", path).status == 200
        installation.until(lambda: cluster.request("GET", path).status == 404, "it to go")
        assert_books_closed(installation, kubelet, uid)


@pytest.mark.parametrize("away", [True, False], ids=["without an operator", "under its eyes"])
def test_a_job_that_is_taken_away_by_force_keeps_neither_its_pods_nor_its_use_unrecorded(
    installation: Installation, kubelet: SimulatedKubelet, *, away: bool
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator(FINETUNE_RESYNC_SECONDS="2") as operator:
        uid = installation.apply(a_job())
        until_training(installation)
        if away:
            operator.kill()
        installation.delete("reviews")
        installation.cluster.request(
            "PATCH",
            installation.path("reviews"),
            {"metadata": {"finalizers": None}},
            content_type="application/merge-patch+json",
        )
        assert installation.is_gone("reviews")
        if away:
            installation.until(
                lambda: all(one.finished for one in kubelet.account(installation.namespace)),
                "its pods to end",
            )
            assert len(kept_pods(installation)) == 2
            operator.start()
        installation.until(lambda: _sealed(installation, uid), "its use to be recorded")
        installation.until(lambda: not kept_pods(installation), "its pods to be let go")
    assert_books_closed(installation, kubelet, uid)


def _sealed(installation: Installation, uid: str) -> bool:
    return all(record.spec.lost_settled for record in installation.records(uid))


def test_a_gang_on_a_lost_node_starts_again_elsewhere_and_is_not_there_when_the_node_returns(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    nodes = [kubelet.node("frail", gpus=1, gpu_product="frail") for _ in range(2)]
    compute = {"workers": 1, "gpusPerWorker": 1, "gpuType": "frail", "cpu": "1", "memory": "1Gi"}
    policy = {"gracePeriodSeconds": 5, "nodeLostTimeoutSeconds": 10}
    try:
        with installation.operator():
            uid = installation.apply(a_job(compute=compute, policy=policy))
            until_training(installation)
            (first,) = training(kubelet, installation.namespace, 2)
            kubelet.silence(first.node)
            status = installation.wait_over("reviews")
            (kept,) = kept_pods(installation)
            assert kept == first.name
            kubelet.restore(first.node)
            installation.until(lambda: bool(_ended(kubelet, installation).finished), "its end")
            installation.until(lambda: not kept_pods(installation), "what it tells to be recorded")
    finally:
        for node in nodes:
            kubelet.remove(node)
    assert status.phase is Phase.COMPLETE
    assert story(status) == [
        (Step.PREPARE, COMPLETED),
        (Step.TRAIN, "NodeFault"),
        (Step.TRAIN, COMPLETED),
        (Step.EVALUATE, COMPLETED),
    ]
    assert (status.attempts[1].node, status.charged_failures) == (first.node, 0)
    (second,) = training(kubelet, installation.namespace, 3)
    assert second.node != first.node
    assert _ended(kubelet, installation).exit_code == ExitCode.STOPPED
    silence, truth = sorted(
        (one for one in installation.records(uid) if one.spec.attempt == 2),
        key=lambda record: record.spec.revision,
    )
    told = [(e.confirmed, e.end_evidence) for one in (silence, truth) for e in one.spec.entries]
    assert told == [(False, EndEvidence.NODE_GONE), (True, EndEvidence.CONTAINERS_TERMINATED)]
    assert_books_closed(installation, kubelet, uid)


def _ended(kubelet: SimulatedKubelet, installation: Installation) -> Entry:
    (entry,) = training(kubelet, installation.namespace, 2)
    return entry
