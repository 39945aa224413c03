"""What becomes of a job on a real API server, with the operator as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.phases import Phase
from finetune_api.report import Step
from harness.cluster import Cluster
from harness.installation import (
    IMAGE,
    Installation,
    a_job,
    held,
    installed,
    make_claim,
    metered,
)
from harness.kubelet import SimulatedKubelet


@pytest.fixture
def installation(
    cluster: Cluster, kubelet: SimulatedKubelet, namespace: str, tmp_path: Path
) -> Iterator[Installation]:
    """Install the operator's roles for a namespace with the claim that jobs read from."""
    make_claim(cluster, namespace, "sources")
    with installed(cluster, namespace, tmp_path) as made:
        yield made


def test_a_job_goes_from_kubectl_apply_to_its_verdict(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    with installation.operator():
        uid = installation.apply(a_job())
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE, status
    assert [(row.number, row.step, row.reason) for row in status.attempts] == [
        (1, Step.PREPARE, "Completed"),
        (2, Step.TRAIN, "Completed"),
        (3, Step.EVALUATE, "Completed"),
    ]
    assert status.evaluation is not None
    assert status.evaluation.passed
    assert status.resolved is not None
    assert status.resolved.image == IMAGE
    records = installation.records(uid)
    assert len(records) == 3
    assert all(record.spec.sealed and record.spec.lost_settled for record in records)
    assert metered(records) == held(kubelet, installation.namespace)
    assert not any(
        pod["metadata"].get("finalizers") for pod in installation.children("v1 pods")
    )
