"""What a person may get wrong, as ``kubectl`` shows it: refused at once, or said in a condition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.phases import ConditionType, Phase, Reason
from finetune_api.status import Condition
from finetune_operator.core.conditions import find
from harness.cluster import Cluster
from harness.installation import Installation, a_job, installed, make_claim
from harness.kubelet import SimulatedKubelet
from harness.objects import Object
from harness.stories import a_card, condition


def refused(cluster: Cluster, namespace: str, job: Object) -> str:
    """Return what ``kubectl apply`` says of a job that is not let in."""
    done = cluster.kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(job), check=False)
    assert done.returncode != 0
    return done.stderr


def not_admitted(installation: Installation, reason: Reason) -> Condition:
    """Return why a job is not admitted, once that is said; nothing was made for it."""
    status = installation.wait(
        "reviews",
        lambda status: (
            (found := find(status.conditions, ConditionType.ADMITTED)) is not None
            and found.reason == reason
        ),
    )
    said = condition(status, ConditionType.ADMITTED)
    assert (said.status, status.phase, status.reason) == ("False", Phase.PENDING, reason)
    assert not installation.children()
    assert not installation.children("v1 pods")
    assert len(installation.children("v1 persistentvolumeclaims")) < 3
    return said


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("a" * 60, {}, "metadata.name must be at most 40 characters"),
        ("reviews.v2", {}, "metadata.name must be at most 40 characters"),
        (
            "reviews",
            {"training": {"maxSteps": 12, "globalBatchSize": 7}},
            "training.globalBatchSize must be a multiple of compute.workers",
        ),
        ("reviews", {"task": "juggling"}, "spec.task: Unsupported value"),
    ],
    ids=["a name of 60 characters", "a name with a dot", "a batch that can't be shared", "a task"],
)
def test_what_the_api_server_can_see_is_refused_at_the_door(
    cluster: Cluster, namespace: str, name: str, spec: Object, message: str
) -> None:
    assert message in refused(cluster, namespace, a_job(name, **spec))


def test_a_name_of_40_characters_works_to_the_end(installation: Installation) -> None:
    name = "a" * 40
    with installation.operator():
        installation.apply(a_job(name))
        assert installation.wait_over(name).phase is Phase.COMPLETE


def test_claims_that_can_not_be_used_are_all_named_and_the_job_goes_on_once_they_are_mended(
    installation: Installation,
) -> None:
    cluster, namespace = installation.cluster, installation.namespace
    make_claim(cluster, namespace, "private", mode="ReadWriteOnce")
    dataset = {"train": "pvc://missing/rows.csv"}
    # Nothing announces that a claim was made: the next resync looks.
    with installation.operator(FINETUNE_RESYNC_SECONDS="2"):
        installation.apply(a_job(dataset=dataset, storage={"claim": "private"}))
        said = not_admitted(installation, Reason.INVALID_SPEC)
        assert "spec.dataset.train: claim missing does not exist" in said.message
        assert "create it" in said.message
        assert "spec.storage.claim: claim private has access modes ReadWriteOnce" in said.message
        assert "ReadWriteMany, or one worker" in said.message
        make_claim(cluster, namespace, "missing")
        path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/private"
        assert cluster.request("DELETE", path).status == 200
        installation.until(lambda: cluster.request("GET", path).status == 404, "it to go")
        make_claim(cluster, namespace, "private")
        assert installation.wait_over("reviews").phase is Phase.COMPLETE


def test_an_accelerator_without_a_rate_holds_a_limited_job_until_a_card_comes(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.node("unpriced", gpus=2, gpu_product="unpriced")
    compute = {"workers": 2, "gpusPerWorker": 1, "gpuType": "unpriced", "cpu": "1", "memory": "1Gi"}
    with installation.operator():
        installation.apply(a_job(compute=compute, budget={"maxCost": "100"}))
        said = installation.wait("reviews", lambda status: status.reason == Reason.RATE_MISSING)
        assert said.message is not None
        assert "unpriced (for train, evaluate)" in said.message
        assert not installation.children()
        with a_card(
            installation.cluster,
            {"name": "gpu", "gpuType": "unpriced", "pricePerHour": "3.6"},
            {"name": "core", "resource": "cpu", "pricePerHour": "0.036"},
            {"name": "gib", "resource": "memory", "pricePerHour": "0.0036"},
        ):
            status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE
    assert status.cost is not None
    assert float(status.cost.spent) > 0


@pytest.mark.parametrize("forbidden", ["requests.nvidia.com/gpu", "count/jobs.batch"])
def test_a_quota_that_forbids_a_gang_is_told_in_its_own_words_and_burns_no_attempt(
    installation: Installation, forbidden: str
) -> None:
    quotas = f"/api/v1/namespaces/{installation.namespace}/resourcequotas"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none-left"},
        "spec": {"hard": {forbidden: "1"}},
    }
    assert installation.cluster.request("POST", quotas, quota).status == 201
    with installation.operator():
        installation.apply(a_job())
        blocked = installation.wait("reviews", lambda status: status.reason == Reason.GANG_BLOCKED)
        said = condition(blocked, ConditionType.RUNNING)
        assert (said.status, said.reason) == ("False", Reason.GANG_BLOCKED)
        installation.wait(
            "reviews", lambda status: "exceeded quota: none-left" in (status.message or "")
        )
        assert installation.status("reviews").attempt == 1
        assert installation.cluster.request("DELETE", f"{quotas}/none-left").status == 200
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE
    assert (status.attempt, status.charged_failures) == (3, 0)


def test_pods_comply_with_the_restricted_level_of_pod_security(
    cluster: Cluster, kubelet: SimulatedKubelet, tmp_path: Path
) -> None:
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = cluster.new_namespace(labels=enforce)
    make_claim(cluster, namespace, "sources")
    with (
        installed(cluster, namespace, tmp_path) as installation,
        installation.operator(),
    ):
        installation.apply(a_job())
        assert installation.wait_over("reviews").phase is Phase.COMPLETE
