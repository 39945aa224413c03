"""What a look makes of strangers' pods, of any annotation, and of jobs that are over or unread."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from finetune_api.phases import Phase
from finetune_api.report import Step
from finetune_api.usage import JobReference
from finetune_operator.cost.records import open_record
from finetune_operator.kube import finalizers, records
from finetune_operator.kube.cache import relist
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.cluster import Caches, Cluster, Memory, Settings
from finetune_operator.kube.config import kubeconfig_connection
from finetune_operator.kube.errors import NotFoundError
from finetune_operator.kube.events import EventWriter
from finetune_operator.kube.manifests.settings import TrainerSettings
from finetune_operator.kube.resources import USAGE_RECORDS
from finetune_operator.kube.transport import OnRequest
from finetune_operator.runtime.controller import Controller, JobKey
from harness.installation import Installation, a_job
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Script
from harness.objects import Object
from harness.stories import until_training

OURS = {"app.kubernetes.io/managed-by": "finetune-operator"}
SLOWLY = Script(step_seconds=0.3)


def strangers(uid: str) -> list[Object]:
    """Metadata of pods that carry some of our labels, such as a copy of a trainer pod would."""
    return [
        {"labels": OURS, "finalizers": ["finetune.dev/metered"]},
        {"labels": {**OURS, "finetune.dev/job-uid": uid}},
        {
            "labels": {
                **OURS,
                "finetune.dev/job-uid": uid,
                "finetune.dev/job-name": "reviews",
                "finetune.dev/step": "juggle",
                "finetune.dev/attempt": "two",
            },
            "annotations": {"batch.kubernetes.io/job-completion-index": "-"},
            "finalizers": ["finetune.dev/metered"],
        },
        {
            "labels": OURS,
            "annotations": {"finetune.dev/released-at": "2099-01-01T00:00:00Z"},
        },
        {"labels": OURS, "annotations": {"finetune.dev/released-at": "once"}},
    ]


def put(installation: Installation, name: str, metadata: Object) -> None:
    pod = {
        "metadata": {"name": name, **metadata},
        "spec": {
            # Nothing binds it: it only stands there.
            "schedulingGates": [{"name": "example.com/never"}],
            "containers": [
                {
                    "name": "pause",
                    "image": "pause",
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }
            ],
        },
    }
    path = f"/api/v1/namespaces/{installation.namespace}/pods"
    made = installation.cluster.request("POST", path, pod)
    assert made.status == 201, made.message


def test_pods_that_only_look_like_ours_end_no_look_and_no_operator(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator(FINETUNE_RESYNC_SECONDS="1", kept=False) as operator:
        uid = installation.apply(a_job())
        for number, metadata in enumerate(strangers(uid)):
            put(installation, f"stranger-{number}", metadata)
        until_training(installation)
        assert installation.wait_over("reviews").phase is Phase.COMPLETE
        pods = installation.children("v1 pods")
        assert operator.is_running
    left = [pod for pod in pods if pod["metadata"]["name"].startswith("stranger")]
    assert len(left) == len(strangers(uid))
    assert not any("deletionTimestamp" in pod["metadata"] for pod in left)
    for pod in left:
        path = f"/api/v1/namespaces/{installation.namespace}/pods/{pod['metadata']['name']}"
        installation.cluster.request(
            "PATCH",
            path,
            {"metadata": {"finalizers": None}},
            content_type="application/merge-patch+json",
        )


def test_a_job_with_any_annotation_that_kubernetes_takes_is_run_and_stopped(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator():
        installation.apply(a_job())
        until_training(installation)
        annotate(installation, {"Example.COM/Owner_of.this": "a team"})
        installation.patch("reviews", {"suspend": True})
        installation.wait("reviews", lambda status: status.phase is Phase.SUSPENDED)


def annotate(installation: Installation, annotations: dict[str, str]) -> None:
    path, patch = installation.path("reviews"), {"metadata": {"annotations": annotations}}
    reply = installation.cluster.request(
        "PATCH", path, patch, content_type="application/merge-patch+json"
    )
    assert reply.status == 200, reply.message


@asynccontextmanager
async def an_engines_cluster(
    installation: Installation, on_request: OnRequest | None = None
) -> AsyncIterator[Cluster]:
    """What the engines of one process share, in this one."""
    connection = await kubeconfig_connection(str(installation.cluster.kubeconfig))
    async with KubeClient(connection, on_request=on_request) as client:
        trainer = TrainerSettings(image="trainer", operator_namespace=installation.own)
        settings = Settings(namespace=installation.own, trainer=trainer)
        events = EventWriter(client)
        yield Cluster(client=client, caches=Caches(), events=events, settings=settings)


async def test_a_job_that_this_version_can_not_read_does_not_hold_up_its_own_deletion(
    installation: Installation,
) -> None:
    async with an_engines_cluster(installation) as cluster:
        installation.apply(a_job())
        read = await finalizers.add(cluster, installation.raw("reviews"))
        installation.delete("reviews")
        assert not installation.is_gone("reviews")
        # As an older operator would read a job of a newer one.
        newer = {**installation.raw("reviews"), "spec": {**read["spec"], "task": "juggling"}}
        cluster.caches.jobs.put(newer)
        await Controller(cluster, lambda: datetime.now(UTC)).look(JobKey.of(newer))
    assert installation.is_gone("reviews")


async def test_a_record_that_somebody_removed_is_made_anew_at_the_next_look(
    installation: Installation,
) -> None:
    job = JobReference(namespace=installation.namespace, name="reviews", uid="3f9c1b2e")
    record = open_record(job, Step.TRAIN, 1, installation.own)
    async with an_engines_cluster(installation) as cluster:
        await records.write(cluster, record)
        await cluster.client.delete(USAGE_RECORDS, record.metadata.name, installation.own)
        with pytest.raises(NotFoundError):
            await records.write(cluster, record)
        await records.write(cluster, record)
        assert installation.records(job.uid)


async def test_of_a_job_that_is_over_a_new_operator_asks_nothing_and_remembers_nothing(
    installation: Installation,
) -> None:
    with installation.operator():
        installation.apply(a_job())
        installation.wait_over("reviews")
    asked: list[str] = []

    def note(verb: str, resource: str, _: int) -> None:
        asked.append(f"{verb} {resource}")

    async with an_engines_cluster(installation, note) as cluster:
        for cache in cluster.caches.all():
            await relist(cluster.client, cache)
        asked.clear()
        key = JobKey.of(installation.raw("reviews"))
        assert await Controller(cluster, lambda: datetime.now(UTC)).look(key) is None
        assert asked == []
        assert cluster.memory == Memory()
