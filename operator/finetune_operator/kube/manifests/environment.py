"""The environment of a trainer's container: every variable of ``finetune_api.run.Env``."""

import math
from collections.abc import Iterator

from finetune_api.job import FineTuneJob
from finetune_api.output import CREDENTIAL_VARIABLES
from finetune_api.report import Step
from finetune_api.run import Env
from finetune_operator.core.decision import CreateGang
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.manifests.settings import TrainerSettings
from finetune_operator.kube.manifests.volumes import CLAIMS, RUN_FOLDER, SCRATCH, WORKSPACE
from finetune_operator.kube.names import (
    ATTEMPT_ANNOTATION,
    INDEX_ANNOTATION,
    RENDEZVOUS_PORT,
    RUN_KEY,
    TRAINER_PORT,
    family_name,
    gang_name,
)
from finetune_operator.kube.placement import quantity

TERMINATION_LOG = "/dev/termination-log"


def environment(job: FineTuneJob, action: CreateGang, trainer: TrainerSettings) -> list[Manifest]:
    """The variables, in a fixed order.

    The attempt comes from the pod's annotation, since a pod learns its number when it is released.
    """
    gang = gang_name(job, action.step, action.attempt)
    fixed: dict[str, str] = {
        Env.RUN_FILE: f"{RUN_FOLDER}/{RUN_KEY}",
        Env.WORKSPACE: WORKSPACE,
        Env.CLAIMS: CLAIMS,
        # An Indexed Job's pod is called by the Job's name and its index, under the Service's.
        Env.MASTER_ADDR: f"{gang}-0.{family_name(job)}",
        Env.MASTER_PORT: str(RENDEZVOUS_PORT),
        Env.LISTEN: f"{trainer.listen_host}:{TRAINER_PORT}",
        Env.TERMINATION_LOG: TERMINATION_LOG,
        Env.GRACE_SECONDS: str(job.spec.policy.grace_period_seconds),
        Env.REPORT_SECONDS: str(trainer.report_seconds),
        Env.COLLECTIVE_SECONDS: str(job.spec.policy.collective_seconds),
        # The root file system is read-only, and libraries keep caches in the user's folder. They
        # also ask for the user's name, which no image knows of an arbitrary one.
        "HOME": SCRATCH,
        "USER": "finetune",
        "OMP_NUM_THREADS": str(_threads_per_rank(job, action)),
        "PYTHONUNBUFFERED": "1",
    }
    if trainer.fake_gpus:
        fixed[Env.FAKE_GPUS] = "true"
    told: dict[str, str] = {
        Env.ATTEMPT: f"metadata.annotations['{ATTEMPT_ANNOTATION}']",
        Env.WORKER: f"metadata.annotations['{INDEX_ANNOTATION}']",
        Env.POD_UID: "metadata.uid",
    }
    return [
        *({"name": str(name), "value": value} for name, value in fixed.items()),
        *_credentials(job, action),
        *(
            {
                "name": str(name),
                "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}},
            }
            for name, path in told.items()
        ),
    ]


def _credentials(job: FineTuneJob, action: CreateGang) -> Iterator[Manifest]:
    """Variables from the job's Secret, for the steps that fetch and publish.

    Each is optional, so that one Secret may hold keys and another an endpoint as well; the trainer
    itself says if none came.
    """
    secret = job.spec.credentials.secret_name
    if secret is None or action.step is Step.TRAIN:
        return
    for name in CREDENTIAL_VARIABLES:
        reference = {"name": secret, "key": name, "optional": True}
        yield {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _threads_per_rank(job: FineTuneJob, action: CreateGang) -> int:
    """Threads that each rank computes with: left to itself, it would take the whole node's."""
    cores = quantity(job.spec.compute.cpu)
    return max(1, math.floor(cores / action.run.gang.ranks_per_worker))
