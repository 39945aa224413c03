"""The operator installed for one test: the chart's roles, and no others, for one namespace.

Several installations live beside each other on one cluster, each with its own namespace for its
Lease and its records; what one does is counted by its service account's name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_api.status import JobStatus
from finetune_api.times import parse_time
from finetune_api.usage import UsageRecord
from harness import helm
from harness.audit import asked
from harness.cluster import CUSTOM, Cluster
from harness.kubelet import SimulatedKubelet
from harness.kubeletaccount import Entry
from harness.objects import Object
from harness.operatorprocess import OperatorProcess, operator_process

# Guards against a hang alone: stories take seconds.
GIVE_UP_SECONDS = 120
IMAGE = "trainer:test"


@dataclass(frozen=True)
class Installation:
    """One installation, and the namespace whose jobs it runs."""

    cluster: Cluster
    namespace: str
    """Of the jobs."""
    own: str
    """Of the operator."""
    kubeconfig: Path
    folder: Path

    @property
    def user(self) -> str:
        """The operator, as the API server knows it."""
        return f"system:serviceaccount:{self.own}:{self.own}"

    def environment(self, **more: str) -> dict[str, str]:
        """The operator's settings: those of the chart, but quicker."""
        return {
            "FINETUNE_NAMESPACE": self.own,
            "FINETUNE_WATCH_NAMESPACES": self.namespace,
            "FINETUNE_TRAINER_IMAGE": IMAGE,
            "FINETUNE_CONTROL_INTERVAL_SECONDS": "1",
            "FINETUNE_LEASE_SECONDS": "3",
            "FINETUNE_REPORT_SECONDS": "20",
            "FINETUNE_LOG_LEVEL": "INFO",
            **more,
        }

    @contextmanager
    def operator(
        self,
        *,
        kubeconfig: Path | None = None,
        name: str = "operator",
        started: bool = True,
        kept: bool = True,
        **environment: str,
    ) -> Iterator[OperatorProcess]:
        """Run an operator of this installation until the block ends (see `operator_process`)."""
        with operator_process(
            kubeconfig=kubeconfig or self.kubeconfig,
            folder=self.folder,
            environment=self.environment(**environment),
            name=name,
            started=started,
            kept=kept,
        ) as process:
            yield process

    def apply(self, job: Object) -> str:
        """Create or change a job as a person does, and return its uid."""
        text = FineTuneJob.model_validate(job).model_dump_json(
            by_alias=True, exclude_none=True, exclude_unset=True
        )
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=text)
        return str(self.raw(job["metadata"]["name"])["metadata"]["uid"])

    def path(self, name: str) -> str:
        """Path of a job."""
        return f"{CUSTOM}/namespaces/{self.namespace}/finetunejobs/{name}"

    # JSON of the API server, as a test wants to look at it.
    def raw(self, name: str) -> Any:
        """A job as the API server has it; a Status if it isn't there."""
        return self.cluster.request("GET", self.path(name)).body

    def status(self, name: str) -> JobStatus:
        """A job's status; empty before the operator has written one."""
        return JobStatus.model_validate(self.raw(name).get("status") or {})

    def wait(self, name: str, wanted: Callable[[JobStatus], bool]) -> JobStatus:
        """Return a job's status once it is as wanted."""
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while not wanted(status := self.status(name)):
            assert time.monotonic() < give_up, f"{name} is still {status}"
            time.sleep(0.1)
        return status

    def wait_over(self, name: str) -> JobStatus:
        """Return a job's status once it is over and nothing holds it any more."""
        self.wait(name, lambda status: status.completion_time is not None)
        self.until(lambda: not self.raw(name)["metadata"].get("finalizers"), "records to be sealed")
        return self.status(name)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Return once something holds."""
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while not holds():
            assert time.monotonic() < give_up, f"waited in vain for {what}"
            time.sleep(0.1)

    def patch(self, name: str, spec: Object) -> None:
        """Change a job's spec."""
        reply = self.cluster.request(
            "PATCH", self.path(name), {"spec": spec}, content_type="application/merge-patch+json"
        )
        assert reply.status == 200, reply.message

    def delete(self, name: str) -> None:
        """Delete a job, and wait for nothing."""
        assert self.cluster.request("DELETE", self.path(name)).status == 200

    def is_gone(self, name: str) -> bool:
        """Whether no job of that name is there."""
        return self.cluster.request("GET", self.path(name)).status == 404

    def children(self, kind: str = "batch/v1 jobs") -> list[Object]:
        """Objects of a kind in the jobs' namespace, given as ``GROUP/VERSION PLURAL``."""
        version, plural = kind.split()
        root = "/api/v1" if version == "v1" else f"/apis/{version}"
        listed = self.cluster.request("GET", f"{root}/namespaces/{self.namespace}/{plural}").body
        found: list[Object] = listed["items"]
        return found

    def records(self, uid: str | None = None) -> list[UsageRecord]:
        """The usage records of this installation, of one job or of all."""
        path = f"{CUSTOM}/namespaces/{self.own}/usagerecords"
        items = self.cluster.request("GET", path).body["items"]
        records = [UsageRecord.model_validate(item, extra="ignore") for item in items]
        return [record for record in records if uid in (None, record.spec.job.uid)]

    def pods_deleted(self) -> list[str]:
        """Names of the jobs' pods that the operator has asked to end, in that order."""
        return [
            it.name
            for it in asked(self.cluster.audit_log)
            if (it.user, it.verb, it.resource) == (self.user, "delete", "pods")
            and it.namespace == self.namespace
        ]

    def requests(self, since: datetime | None = None) -> Counter[tuple[str, str, str]]:
        """What the operator has asked of the API server."""
        return self.cluster.requests(user=self.user, since=since)


@contextmanager
def installed(
    cluster: Cluster, namespace: str, folder: Path, *, everywhere: bool = False
) -> Iterator[Installation]:
    """Install the chart for one namespace, without the operator's own pod.

    With `everywhere` it is a cluster-wide one, whose rights don't go with the namespace; its
    operator still watches that namespace alone.
    """
    own = f"{namespace}-system"
    values = {
        "fullnameOverride": own,
        "watchNamespaces": [] if everywhere else [namespace],
        "crds": {"enabled": False},
        "operator": {"replicas": 0},
    }
    helm.install(cluster, values, namespace=own, release=own)
    try:
        yield Installation(
            cluster=cluster,
            namespace=namespace,
            own=own,
            kubeconfig=cluster.kubeconfig_of(own, own),
            folder=folder,
        )
    finally:
        helm.uninstall(cluster, namespace=own, release=own)


def a_job(name: str = "reviews", **spec: object) -> Object:
    """A job with two workers of one GPU, twelve steps, saved every four."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "task": "text-classification",
            "model": {"uri": "pvc://sources/model"},
            "dataset": {"train": "pvc://sources/rows.csv"},
            "training": {"maxSteps": 12, "globalBatchSize": 8},
            "compute": {"workers": 2, "gpusPerWorker": 1, "cpu": "1", "memory": "1Gi"},
            "checkpoint": {"everySteps": 4},
            "policy": {"gracePeriodSeconds": 10},
            **spec,
        },
    }


def make_claim(cluster: Cluster, namespace: str, name: str, mode: str = "ReadWriteMany") -> None:
    """Make a claim that a job can name."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": "1Gi"}}},
    }
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    made = cluster.request("POST", path, claim)
    assert made.status == 201, made.message


def held(kubelet: SimulatedKubelet, namespace: str) -> dict[str, tuple[datetime, datetime]]:
    """What the kubelet says that each pod held, by uid: from when to when."""
    account: dict[str, tuple[datetime, datetime]] = {}
    for entry in kubelet.account(namespace):
        assert entry.finished is not None, f"{entry.name} still runs"
        account[entry.uid] = (entry.bound, entry.finished)
    return account


def metered(records: Iterable[UsageRecord]) -> dict[str, tuple[datetime, datetime]]:
    """What the records say that each pod held, by uid: from when to when."""
    ledger: dict[str, tuple[datetime, datetime]] = {}
    for record in records:
        for entry in record.spec.entries:
            assert entry.until is not None, f"{record.metadata.name} has an open entry"
            since, until = parse_time(entry.since), parse_time(entry.until)
            first, last = ledger.get(entry.pod_uid, (since, until))
            ledger[entry.pod_uid] = (min(first, since), max(last, until))
    return ledger


def training(kubelet: SimulatedKubelet, namespace: str, attempt: int) -> list[Entry]:
    """What the pods of a training attempt held."""
    account = kubelet.account(namespace)
    return [one for one in account if (one.step, one.attempt) == (Step.TRAIN, attempt)]
