"""The sweep asks the API server only about jobs to which something is still owed."""

from datetime import timedelta
from fractions import Fraction

import pytest

from finetune_api.usage import UsageRecord
from finetune_operator.cost.records import meter, seal, settle_lost
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.cluster import Caches, Cluster, Settings
from finetune_operator.kube.events import EventWriter
from finetune_operator.kube.manifests.settings import TrainerSettings
from finetune_operator.kube.orphans import sweep
from unit.builders_cost import NOON, a_pod, a_record, at

SEALED = seal(a_record(), [a_pod(started_at=at(1), finished_at=at(9))], None, [], at(10))
SETTLED = settle_lost(SEALED, Fraction(1))
LATER = NOON + timedelta(hours=1)


def a_cluster() -> Cluster:
    """One whose client was never opened: a request of any kind is an AssertionError."""
    client = KubeClient()
    trainer = TrainerSettings(image="trainer", operator_namespace="finetune-system")
    settings = Settings(namespace="finetune-system", trainer=trainer)
    return Cluster(client=client, caches=Caches(), events=EventWriter(client), settings=settings)


def put(cluster: Cluster, name: str, spec: dict[str, object]) -> None:
    count = str(len(cluster.caches.records) + 1)
    metadata = {
        "name": name,
        "namespace": "finetune-system",
        "uid": name,
        "resourceVersion": count,
        "labels": SETTLED.metadata.labels,
    }
    cluster.caches.records.put({"metadata": metadata, "spec": spec})


def spec_of(record: UsageRecord, revision: int = 0) -> dict[str, object]:
    found: dict[str, object] = record.wire()["spec"]
    return {**found, "revision": revision}


async def test_of_final_records_nothing_is_asked() -> None:
    cluster = a_cluster()
    put(cluster, "first", spec_of(SEALED))
    put(cluster, "corrected", spec_of(SETTLED, revision=1))
    await sweep(cluster, LATER)


async def test_a_record_of_another_version_ends_no_sweep() -> None:
    cluster = a_cluster()
    put(cluster, "strange", {"of": "another version"})
    put(cluster, "stranger", {**spec_of(SETTLED), "step": "juggle"})
    await sweep(cluster, LATER)


async def test_of_a_record_that_is_open_its_job_is_asked_for() -> None:
    cluster = a_cluster()
    put(cluster, "open", spec_of(meter(a_record(), [a_pod()], None, [], at(5))))
    with pytest.raises(AssertionError, match="async with"):
        await sweep(cluster, LATER)
