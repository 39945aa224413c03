"""What the stories of the operator on a cluster ask for, in their own words."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_api.phases import ConditionType
from finetune_api.report import Step
from finetune_api.status import AttemptStatus, Condition, JobStatus
from finetune_operator.core.conditions import find
from finetune_operator.cost.records import latest
from finetune_operator.kube.names import POD_FINALIZER, STEP_LABEL, TRAINER_PORT
from harness.cluster import CUSTOM, Cluster
from harness.installation import Installation, held, metered
from harness.kubelet import SimulatedKubelet
from harness.objects import Object

CHILDREN = (
    "batch/v1 jobs",
    "v1 configmaps",
    "v1 services",
    "networking.k8s.io/v1 networkpolicies",
    "v1 pods",
)
"""Kinds of what is made for every job."""
COMPLETED = "Completed"
RATE_CARDS = f"{CUSTOM}/ratecards"
_BECAUSE = {"effectiveFrom": "2026-01-01T00:00:00Z", "source": "a test"}


def story(status: JobStatus) -> list[tuple[Step, str | None]]:
    """Return the step of each attempt and how it ended, in their order."""
    assert [row.number for row in status.attempts] == list(range(1, status.attempt + 1))
    return [(row.step, row.reason) for row in status.attempts]


def condition(status: JobStatus, kind: ConditionType) -> Condition:
    """Return a condition that must be there."""
    found = find(status.conditions, kind)
    assert found is not None, status.conditions
    return found


def running(status: JobStatus, step: Step = Step.TRAIN) -> AttemptStatus | None:
    """Return the attempt of a step that runs now."""
    row = status.attempts[-1] if status.attempts else None
    return row if row is not None and (row.step, row.state) == (step, "Running") else None


def until_training(installation: Installation, name: str = "reviews") -> AttemptStatus:
    """Return the training attempt that runs, once one does."""
    row = running(installation.wait(name, lambda status: running(status) is not None))
    assert row is not None
    return row


def until_step(installation: Installation, step: int, name: str = "reviews") -> None:
    """Return once rank 0 of the running training has told that it made so many steps."""
    until_training(installation, name)
    installation.until(lambda: _step_now(installation) >= step, f"step {step}")


def _step_now(installation: Installation) -> int:
    for pod in installation.children("v1 pods"):
        labels, host = pod["metadata"]["labels"], pod["status"].get("podIP")
        if labels.get(STEP_LABEL) == Step.TRAIN and host:
            try:
                connection = http.client.HTTPConnection(host, TRAINER_PORT, timeout=5)
                connection.request("GET", "/progress")
                return int(json.loads(connection.getresponse().read())["step"])
            except OSError:
                continue  # another worker than rank 0, or it has ended
    return 0


def assert_books_closed(installation: Installation, kubelet: SimulatedKubelet, uid: str) -> None:
    """The job's records are final and say what the kubelet says; nothing of it holds a pod."""
    records = latest(installation.records(uid))
    assert records
    assert all(record.spec.sealed and record.spec.lost_settled for record in records)
    assert metered(records) == held(kubelet, installation.namespace)
    assert not kept_pods(installation)


def kept_pods(installation: Installation) -> list[str]:
    """Return the names of pods that carry our finalizer."""
    return [
        pod["metadata"]["name"]
        for pod in installation.children("v1 pods")
        if POD_FINALIZER in pod["metadata"].get("finalizers", [])
    ]


def events(installation: Installation, reason: str) -> list[str]:
    """Return what was told of a job under a reason."""
    return [
        event["message"]
        for event in installation.children("v1 events")
        if (event["involvedObject"]["kind"], event["reason"]) == ("FineTuneJob", reason)
    ]


@contextmanager
def a_card(cluster: Cluster, *entries: Object) -> Iterator[str]:
    """Let there be a rate card until the block ends."""
    card = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "RateCard",
        "metadata": {"generateName": "card-"},
        "spec": {"currency": "USD", "entries": [{**entry, **_BECAUSE} for entry in entries]},
    }
    made = cluster.request("POST", RATE_CARDS, card)
    assert made.status == 201, made.message
    name = made.body["metadata"]["name"]
    try:
        yield name
    finally:
        cluster.request("DELETE", f"{RATE_CARDS}/{name}")
