"""The batch/v1 Job of one attempt, and the pods that it makes."""

from finetune_api.digests import run_digest
from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_operator.core.decision import CreateGang
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.manifests.environment import TERMINATION_LOG, environment
from finetune_operator.kube.manifests.owner import owned_metadata
from finetune_operator.kube.manifests.security import (
    container_security_context,
    pod_security_context,
)
from finetune_operator.kube.manifests.settings import TrainerSettings
from finetune_operator.kube.manifests.volumes import mounts, volumes
from finetune_operator.kube.names import (
    FAKE_GPUS_ANNOTATION,
    GATE,
    GPU_PRODUCT_LABEL,
    GPU_RESOURCE,
    POD_FINALIZER,
    RUN_DIGEST_ANNOTATION,
    TRAINER_CONTAINER,
    TRAINER_PORT,
    family_name,
    gang_labels,
    gang_name,
)

_PROBE_SECONDS = 5


def gang_job(job: FineTuneJob, action: CreateGang, trainer: TrainerSettings) -> Manifest:
    """The Job of an attempt: all its pods at once, none ever made again, none started yet.

    It is created once and never applied again. It makes no second try of its own: the next attempt
    is another Job. Its deadline is set when the gang is released.
    """
    workers = action.run.gang.workers
    labels = gang_labels(job, action.step, action.attempt)
    annotations = {RUN_DIGEST_ANNOTATION: run_digest(action.run)}
    if trainer.fake_gpus and _gpus(action):
        annotations[FAKE_GPUS_ANNOTATION] = "true"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **owned_metadata(job, gang_name(job, action.step, action.attempt)),
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": workers,
            "parallelism": workers,
            "backoffLimit": 0,
            # Otherwise a replacement is made while the old pod still holds its devices.
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": annotations,
                    "finalizers": [POD_FINALIZER],
                },
                "spec": _pod_spec(job, action, trainer),
            },
        },
    }


def _pod_spec(job: FineTuneJob, action: CreateGang, trainer: TrainerSettings) -> Manifest:
    compute = job.spec.compute
    selector = dict(compute.node_selector)
    if _gpus(action) and compute.gpu_type is not None:
        selector[GPU_PRODUCT_LABEL] = compute.gpu_type
    spec: Manifest = {
        "schedulingGates": [{"name": GATE}],
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": job.spec.policy.grace_period_seconds,
        "subdomain": family_name(job),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security_context(),
        "containers": [_container(job, action, trainer)],
        "volumes": volumes(job, action.run, gang_name(job, action.step, action.attempt)),
    }
    if trainer.service_account is not None:
        spec["serviceAccountName"] = trainer.service_account
    if selector:
        spec["nodeSelector"] = selector
    if compute.tolerations:
        spec["tolerations"] = [toleration.wire() for toleration in compute.tolerations]
    return spec


def _container(job: FineTuneJob, action: CreateGang, trainer: TrainerSettings) -> Manifest:
    resources = _resources(job, action)
    container: Manifest = {
        "name": TRAINER_CONTAINER,
        "image": _image(job, trainer),
        "imagePullPolicy": trainer.image_pull_policy,
        "command": ["finetune-trainer", action.step.value],
        "env": environment(job, action, trainer),
        "ports": [{"name": "progress", "containerPort": TRAINER_PORT, "protocol": "TCP"}],
        "resources": {"requests": resources, "limits": resources},
        "securityContext": container_security_context(),
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(job, action.run),
    }
    if action.step is not Step.TRAIN and trainer.report_seconds > 0:
        # A pod that becomes ready has its report to offer: the change of its status is the call.
        container["readinessProbe"] = {
            "httpGet": {"path": "/report", "port": TRAINER_PORT},
            "periodSeconds": _PROBE_SECONDS,
            "timeoutSeconds": _PROBE_SECONDS,
        }
    return container


def _image(job: FineTuneJob, trainer: TrainerSettings) -> str:
    """The image that the job was admitted with, so that an upgrade changes no running job."""
    resolved = job.status.resolved if job.status else None
    return (resolved.image if resolved else None) or trainer.image


def _resources(job: FineTuneJob, action: CreateGang) -> dict[str, str]:
    compute, gpus = job.spec.compute, _gpus(action)
    resources = {"cpu": compute.cpu, "memory": compute.memory}
    return {**resources, GPU_RESOURCE: str(gpus)} if gpus else resources


def _gpus(action: CreateGang) -> int:
    """Accelerators of each pod: one per rank, where ranks compute on them."""
    gang = action.run.gang
    return gang.ranks_per_worker if gang.device == "cuda" else 0
