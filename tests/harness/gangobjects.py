"""A job's objects on a cluster, built as the operator builds them, for the tests of manifests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_api.status import JobStatus
from finetune_operator.core.decision import CreateGang
from finetune_operator.core.observed import EngineFacts
from finetune_operator.core.resolve import resolve, run_for
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.manifests.claim import workspace_claim
from finetune_operator.kube.manifests.gang import gang_job
from finetune_operator.kube.manifests.network import headless_service, network_policy
from finetune_operator.kube.manifests.run import run_config_map
from finetune_operator.kube.manifests.settings import TrainerSettings
from harness.objects import JOB, changed

UID = "5f3a9c1e-7d42-4b0a-9a51-0c8e2d6b7f10"
IMAGE = "registry.example/finetune-trainer:1.2"
TRAINER = TrainerSettings(image=IMAGE, operator_namespace="finetune-system")


@dataclass(frozen=True)
class Gang:
    """A job, and the making of one of its gangs."""

    job: FineTuneJob
    action: CreateGang

    def batch_job(self, trainer: TrainerSettings = TRAINER) -> Manifest:
        """Return the gang's Job."""
        return gang_job(self.job, self.action, trainer)

    def pod(self, trainer: TrainerSettings = TRAINER) -> Manifest:
        """Return the spec of the gang's pods."""
        spec: Manifest = self.batch_job(trainer)["spec"]["template"]["spec"]
        return spec

    def container(self, trainer: TrainerSettings = TRAINER) -> Manifest:
        """Return their one container."""
        (only,) = self.pod(trainer)["containers"]
        container: Manifest = only
        return container

    def variables(self, trainer: TrainerSettings = TRAINER) -> dict[str, str]:
        """Return the container's environment; a field of the pod stands as its path."""
        return {
            one["name"]: one["value"]
            if "value" in one
            else one["valueFrom"]["fieldRef"]["fieldPath"]
            for one in self.container(trainer)["env"]
        }

    def objects(self, trainer: TrainerSettings = TRAINER) -> list[Manifest]:
        """Return all that must be there for the gang to run, its Job last."""
        claim = workspace_claim(self.job)
        return [
            *([claim] if claim else []),
            headless_service(self.job),
            network_policy(self.job, trainer),
            run_config_map(self.job, self.action),
            self.batch_job(trainer),
        ]


def a_gang(step: Step = Step.TRAIN, attempt: int = 1, *, image: str = IMAGE, **spec: Any) -> Gang:
    """Make a gang of the smallest job, or of one with these blocks in its spec."""
    wanted = {"metadata.uid": UID, "metadata.namespace": "team"}
    wanted |= {f"spec.{block}": value for block, value in spec.items()}
    return gang_of_job(changed(JOB, wanted), step, attempt, image=image)


def gang_of_job(body: Any, step: Step, attempt: int, *, image: str = IMAGE) -> Gang:
    """Make a gang of a job, admitted on a cluster with that image."""
    job = FineTuneJob.model_validate(body, extra="ignore")
    resolved = resolve(job, EngineFacts(device="cuda", image=image), smoke=False)
    best = "checkpoints/2/40" if step is Step.EVALUATE else None
    action = CreateGang(step=step, attempt=attempt, run=run_for(job, step, resolved, best))
    admitted = job.model_copy(update={"status": JobStatus(resolved=resolved)})
    return Gang(job=admitted, action=action)
