"""A gang made by hand, as the operator makes one: for tests of the test cluster itself."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finetune_api.dataset import Dataset
from finetune_api.evaluation import Evaluation
from finetune_api.health import Health
from finetune_api.model import ModelSource
from finetune_api.report import Step
from finetune_api.run import Env, Gang, Run, RunTraining
from finetune_api.tasks import Task
from finetune_api.training import Offload, Precision, Scheduler
from finetune_api.usage import JobReference
from finetune_operator.kube import names
from harness.cluster import Cluster
from harness.clusterclient import Object
from harness.scripted import DIGEST

JSON_PATCH = "application/json-patch+json"
# A guard against a hang alone.
GIVE_UP_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class HandmadeGang:
    """One attempt's Job and run in a namespace."""

    cluster: Cluster
    namespace: str
    name: str
    attempt: int
    workers: int

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def pods(self) -> list[Object]:
        """Return its pods as they are now, by worker."""
        query = f"labelSelector=job-name%3D{self.name}"
        items: list[Object] = self.cluster.request("GET", f"{self._pods}?{query}").body["items"]
        return sorted(items, key=lambda pod: pod["metadata"]["name"])

    def conditions(self) -> set[str]:
        """Return the types of the Job's conditions that hold."""
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{self.name}"
        found = self.cluster.request("GET", path).body["status"].get("conditions", [])
        return {one["type"] for one in found if one["status"] == "True"}

    def release(self) -> None:
        """Remove the gates once all pods are there, and stamp the attempt."""
        wait_until(lambda: len(self.pods()) == self.workers)
        for pod in self.pods():
            stamp = names.ATTEMPT_ANNOTATION.replace("/", "~1")
            patch = [
                {
                    "op": "add",
                    "path": f"/metadata/annotations/{stamp}",
                    "value": str(self.attempt),
                },
                {"op": "remove", "path": "/spec/schedulingGates"},
            ]
            self._patch(pod, patch)

    def stop(self, grace_seconds: int) -> None:
        """Delete every pod with that grace."""
        for pod in self.pods():
            name = pod["metadata"]["name"]
            self.cluster.request(
                "DELETE", f"{self._pods}/{name}?gracePeriodSeconds={grace_seconds}"
            )

    def forget(self) -> None:
        """Remove our finalizer from its pods."""
        for pod in self.pods():
            kept = [it for it in pod["metadata"]["finalizers"] if it != names.POD_FINALIZER]
            self._patch(pod, [{"op": "replace", "path": "/metadata/finalizers", "value": kept}])

    def _patch(self, pod: Object, patch: list[Any]) -> None:
        path = f"{self._pods}/{pod['metadata']['name']}"
        reply = self.cluster.request("PATCH", path, patch, content_type=JSON_PATCH)
        assert reply.status == 200, reply.message


def make_gang(
    cluster: Cluster,
    namespace: str,
    step: Step = Step.TRAIN,
    *,
    attempt: int = 1,
    workers: int = 2,
    gpus: int = 1,
    steps: int = 20,
    report_seconds: int = 0,
    lost_seconds: int | None = None,
) -> HandmadeGang:
    """Make a gang whose pods wait at the gate.

    `lost_seconds` is how long its pods tolerate a node that is lost; None is the cluster's default.
    """
    name = f"reviews-{step}-{attempt}"
    run = a_run(namespace, step, workers=workers, ranks=max(1, gpus), steps=steps)
    inside = f"namespaces/{namespace}"
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {"run.json": run.model_dump_json(by_alias=True)},
    }
    made = cluster.request("POST", f"/api/v1/{inside}/configmaps", config_map)
    assert made.status == 201, made.message
    template = _template(
        name, step, gpus=gpus, report_seconds=report_seconds, lost_seconds=lost_seconds
    )
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": workers,
            "parallelism": workers,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "template": template,
        },
    }
    made = cluster.request("POST", f"/apis/batch/v1/{inside}/jobs", job)
    assert made.status == 201, made.message
    return HandmadeGang(
        cluster=cluster, namespace=namespace, name=name, attempt=attempt, workers=workers
    )


def a_run(namespace: str, step: Step, *, workers: int, ranks: int, steps: int) -> Run:
    """Return a run that trains for so many steps and saves at every fifth.

    All runs in a namespace are of one job.
    """
    job = uuid.uuid5(uuid.NAMESPACE_DNS, namespace)
    return Run(
        job=JobReference(namespace=namespace, name="reviews", uid=str(job)),
        step=step,
        task=Task.TEXT_CLASSIFICATION,
        model=ModelSource(uri="pvc://models/minilm"),
        dataset=Dataset(train="pvc://data/reviews.csv"),
        training=RunTraining(
            epochs=None,
            max_steps=steps,
            learning_rate=3e-5,
            global_batch_size=32,
            micro_batch_size=16,
            accumulation_steps=1,
            scheduler=Scheduler.LINEAR,
            warmup_ratio=0.06,
            weight_decay=0.0,
            max_grad_norm=1.0,
            precision=Precision.FP32,
            activation_checkpointing=False,
            compile=False,
            max_length=128,
            dropout=None,
            evals_per_epoch=1,
            early_stopping=None,
            health=Health(),
            seed=1,
            zero_stage=0,
            offload=Offload.NONE,
            checkpoint_every_steps=5,
            checkpoint_keep=2,
        ),
        evaluation=Evaluation(),
        gang=Gang(workers=workers, ranks_per_worker=ranks, device="cuda"),
        spec_digest=DIGEST,
    )


def _template(
    name: str, step: Step, *, gpus: int, report_seconds: int, lost_seconds: int | None
) -> Object:
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    fields = {
        Env.ATTEMPT: f"metadata.annotations['{names.ATTEMPT_ANNOTATION}']",
        Env.WORKER: index,
        Env.POD_UID: "metadata.uid",
    }
    env = [
        {"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}}
        for key, path in fields.items()
    ]
    plain = {Env.RUN_FILE: "/etc/finetune/run.json", Env.REPORT_SECONDS: str(report_seconds)}
    env += [{"name": key, "value": value} for key, value in plain.items()]
    resources = {"cpu": "1", "memory": "1Gi"}
    if gpus:
        resources[names.GPU_RESOURCE] = str(gpus)
    container: Object = {
        "name": names.TRAINER_CONTAINER,
        "image": "trainer:test",
        "env": env,
        "resources": {"limits": resources},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "run", "mountPath": "/etc/finetune"}],
    }
    if report_seconds:
        container["readinessProbe"] = {
            "httpGet": {"path": "/report", "port": names.TRAINER_PORT},
        }
    effects = {"effect": "NoExecute", "operator": "Exists"}
    lost = [
        {**effects, "key": f"node.kubernetes.io/{key}", "tolerationSeconds": lost_seconds}
        for key in ("not-ready", "unreachable")
    ]
    return {
        "metadata": {
            "labels": {names.STEP_LABEL: step.value},
            "finalizers": [names.POD_FINALIZER],
        },
        "spec": {
            "restartPolicy": "Never",
            "schedulingGates": [{"name": names.GATE}],
            "tolerations": [] if lost_seconds is None else lost,
            "volumes": [{"name": "run", "configMap": {"name": name}}],
            "containers": [container],
        },
    }


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait until it holds; that it never does fails the test, how soon it does never."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while not holds():
        assert time.monotonic() < give_up, f"not so after {GIVE_UP_SECONDS} s"
        time.sleep(0.05)
