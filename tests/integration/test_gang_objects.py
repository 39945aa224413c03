"""The objects of a gang on a real API server: taken as they are, complied with, made into pods."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from finetune_api import API_VERSION
from finetune_api.report import Step
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.manifests.run import report_config_map
from finetune_operator.kube.names import MANAGER
from finetune_operator.kube.resources import (
    CLAIMS,
    CONFIG_MAPS,
    JOBS,
    NETWORK_POLICIES,
    SERVICES,
    Resource,
    path,
)
from harness.cluster import Cluster
from harness.gangobjects import Gang, a_gang, gang_of_job
from harness.objects import JOB, Object, changed
from harness.podsecurity import violations

STRICT = "fieldValidation=Strict"
KINDS = {it.kind: it for it in (CLAIMS, CONFIG_MAPS, JOBS, NETWORK_POLICIES, SERVICES)}
APPLIED = (SERVICES, NETWORK_POLICIES, CONFIG_MAPS)
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
# Guards against a hang alone.
GIVE_UP_SECONDS = 60

SMALLEST: Object = JOB
LARGEST = changed(
    JOB,
    {
        "metadata.name": "a" * 40,
        "spec.dataset.test": f"pvc://{'c' * 253}/rows.csv",
        "spec.training.globalBatchSize": 1024,
        "spec.compute": {
            "workers": 64,
            "gpusPerWorker": 16,
            "gpuType": "G" * 63,
            "cpu": "9999.999",
            "memory": "9999999Ti",
            "nodeSelector": {f"{'p' * 253}/{'n' * 63}": "v" * 63, "zone": ""},
            "tolerations": [
                {"operator": "Exists"},
                {"key": "dedicated", "value": "v" * 63, "effect": "NoSchedule"},
                {"key": "dedicated", "effect": "NoExecute", "tolerationSeconds": 0},
            ],
        },
        "spec.storage": {"size": "9999999T", "storageClassName": "s" * 253},
        "spec.policy.gracePeriodSeconds": 3600,
    },
)


def on_the_server(
    cluster: Cluster, namespace: str, body: Object, step: Step, attempt: int = 1
) -> Gang:
    """Make a gang of a job that is there: what belongs to one that isn't is collected."""
    jobs = f"/apis/{API_VERSION}/namespaces/{namespace}/finetunejobs"
    made = cluster.request("POST", f"{jobs}?{STRICT}", body)
    assert made.status == 201, made.message
    return gang_of_job(made.body, step, attempt)


def collection(manifest: Manifest) -> str:
    """Return the path of the manifest's kind, in its namespace."""
    return path(KINDS[manifest["kind"]], manifest["metadata"]["namespace"])


def bare_pod(gang: Gang, spec: Manifest) -> Manifest:
    """Return a pod as the Job would make it, but by itself."""
    template = gang.batch_job()["spec"]["template"]["metadata"]
    metadata = {"generateName": "bare-", "labels": template["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("body", [SMALLEST, LARGEST], ids=["smallest", "largest"])
def test_the_api_server_takes_every_object_of_a_gang(
    cluster: Cluster, namespace: str, body: Object, step: Step
) -> None:
    gang = on_the_server(cluster, namespace, body, step, attempt=9999)
    report = report_config_map(gang.job, step, 9999, b'{"version": 1}')
    for manifest in (*gang.objects(), report):
        made = cluster.request("POST", f"{collection(manifest)}?{STRICT}&dryRun=All", manifest)
        assert made.status == 201, f"{manifest['kind']}: {made.message}"


@pytest.mark.parametrize("resource", APPLIED, ids=lambda it: it.kind)
def test_what_is_applied_again_does_not_change(
    cluster: Cluster, namespace: str, resource: Resource
) -> None:
    gang = on_the_server(cluster, namespace, SMALLEST, Step.TRAIN)
    (manifest,) = (it for it in gang.objects() if it["kind"] == resource.kind)
    where = path(resource, namespace, manifest["metadata"]["name"])
    query = f"{STRICT}&fieldManager={MANAGER}"
    versions = []
    for _ in range(2):
        reply = cluster.request(
            "PATCH", f"{where}?{query}", manifest, content_type="application/apply-patch+yaml"
        )
        assert reply.status in {200, 201}, reply.message
        versions.append(reply.body["metadata"]["resourceVersion"])
    assert versions[0] == versions[1]


def test_the_whole_gang_comes_gated_named_and_held(cluster: Cluster, namespace: str) -> None:
    body = changed(JOB, {"spec.compute": {"workers": 2, "gpusPerWorker": 0}})
    gang = on_the_server(cluster, namespace, body, Step.TRAIN)
    for manifest in gang.objects():
        made = cluster.request("POST", f"{collection(manifest)}?{STRICT}", manifest)
        assert made.status == 201, f"{manifest['kind']}: {made.message}"
    pods = awaited(lambda: gated_pods(cluster, namespace), count=2)
    name = gang.batch_job()["metadata"]["name"]
    assert {pod["spec"]["hostname"] for pod in pods} == {f"{name}-0", f"{name}-1"}
    for pod in pods:
        assert pod["spec"]["subdomain"] == f"reviews-{gang.job.metadata.uid[:6]}"
        assert "finetune.dev/metered" in pod["metadata"]["finalizers"]
        assert "nodeName" not in pod["spec"]
        told = {one["name"]: one for one in pod["spec"]["containers"][0]["env"]}
        index = told["FINETUNE_WORKER"]["valueFrom"]["fieldRef"]["fieldPath"]
        key = index.removeprefix("metadata.annotations['").removesuffix("']")
        assert pod["spec"]["hostname"] == f"{name}-{pod['metadata']['annotations'][key]}"


def gated_pods(cluster: Cluster, namespace: str) -> list[Any]:
    """Return the namespace's pods of which the scheduler has said that they are gated."""
    pods = cluster.request("GET", f"/api/v1/namespaces/{namespace}/pods").body["items"]
    return [
        pod
        for pod in pods
        for condition in pod["status"].get("conditions", ())
        if (condition["type"], condition.get("reason")) == ("PodScheduled", "SchedulingGated")
    ]


def awaited(look: Callable[[], list[Any]], *, count: int) -> list[Any]:
    """Look until there are so many."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while len(found := look()) < count:
        assert time.monotonic() < give_up, f"{len(found)} of {count} came"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("step", list(Step))
@pytest.mark.parametrize("body", [SMALLEST, LARGEST], ids=["smallest", "largest"])
def test_a_restricted_namespace_takes_the_pods(cluster: Cluster, body: Object, step: Step) -> None:
    namespace = cluster.new_namespace(labels=RESTRICTED)
    gang = on_the_server(cluster, namespace, body, step)
    pods = f"/api/v1/namespaces/{namespace}/pods?{STRICT}&dryRun=All"
    made = cluster.request("POST", pods, bare_pod(gang, gang.pod()))
    assert made.status == 201, made.message


HOST_PATH = [{"name": "host", "hostPath": {"path": "/"}}]
WEAKER: dict[str, Any] = {
    "hostNetwork": True,
    "hostPID": True,
    "volumes": [*a_gang().pod()["volumes"], *HOST_PATH],
    "securityContext.runAsNonRoot": False,
    "securityContext.runAsUser": 0,
    "securityContext.seccompProfile.type": "Unconfined",
    "securityContext.sysctls": [{"name": "kernel.msgmax", "value": "1"}],
    "containers.0.securityContext.allowPrivilegeEscalation": True,
    "containers.0.securityContext.capabilities.drop": [],
    "containers.0.securityContext.capabilities.add": ["SYS_PTRACE"],
    "containers.0.ports.0.hostPort": 8471,
    "containers.0.readinessProbe": {"httpGet": {"path": "/", "port": 1, "host": "10.0.0.1"}},
}


@pytest.mark.parametrize("field", WEAKER)
def test_a_weaker_pod_is_refused_and_found_out_without_a_server(
    cluster: Cluster, field: str
) -> None:
    weaker = changed(a_gang().pod(), {field: WEAKER[field]})
    assert violations(weaker) != []
    namespace = cluster.new_namespace(labels=RESTRICTED)
    pods = f"/api/v1/namespaces/{namespace}/pods?dryRun=All"
    refused = cluster.request("POST", pods, bare_pod(a_gang(), weaker))
    assert refused.status == 403, refused.body
    assert 'violates PodSecurity "restricted' in refused.message
