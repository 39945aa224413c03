"""Every name that is seen on a cluster: labels, finalizers, and what children are called.

Children are selected by their job's uid, never by its name: a namesake must inherit nothing.
"""

from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_operator.cost.records import JOB_UID_LABEL

GROUP = "finetune.dev"
VERSION = "v1alpha1"
MANAGER = "finetune-operator"
"""Field manager, event source, and value of the managed-by label."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
JOB_NAME_LABEL = f"{GROUP}/job-name"
STEP_LABEL = f"{GROUP}/step"
ATTEMPT_LABEL = f"{GROUP}/attempt"
"""Number of the attempt that a Job and its pods were made for."""
ATTEMPT_ANNOTATION = f"{GROUP}/attempt"
"""Number of the attempt that a pod was released for; stamped with the gate's removal."""

RELEASED_AT_ANNOTATION = f"{GROUP}/released-at"
"""When a pod's gate was removed; stamped with it."""
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
"""Number of a pod's worker; set by Kubernetes' Job controller."""

RUN_DIGEST_ANNOTATION = f"{GROUP}/run-digest"
"""On a pod: digest of the run that it was made for."""
FAKE_GPUS_ANNOTATION = f"{GROUP}/fake-gpus"
"""On a pod: CPUs stand in for the accelerators that it asks for."""

POD_FINALIZER = f"{GROUP}/metered"
"""Keeps a pod's facts until its record is sealed."""
JOB_FINALIZER = f"{GROUP}/records"
"""Keeps a job until its records are sealed."""
GATE = f"{GROUP}/gang"
"""The scheduling gate: a gang's pods bind only once it is gone from all of them."""

RUN_KEY = "run.json"
REPORT_KEY = "report.json"
"""Keys of the ConfigMaps that carry a run and keep a report."""

TRAINER_CONTAINER = "trainer"
TRAINER_PORT = 8471
"""Of /progress, /metrics and /report."""
RENDEZVOUS_PORT = 29500

GPU_RESOURCE = "nvidia.com/gpu"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"
GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"

MANAGED_SELECTOR = f"{MANAGED_BY_LABEL}={MANAGER}"


def job_selector(uid: str) -> str:
    """Label selector of all that belongs to a job."""
    return f"{MANAGED_SELECTOR},{JOB_UID_LABEL}={uid}"


def job_labels(job: FineTuneJob) -> dict[str, str]:
    """Labels of all that belongs to a job."""
    return {
        MANAGED_BY_LABEL: MANAGER,
        JOB_UID_LABEL: job.metadata.uid,
        JOB_NAME_LABEL: job.metadata.name,
    }


def gang_labels(job: FineTuneJob, step: Step, attempt: int) -> dict[str, str]:
    """Labels of a gang's Job, pods and run."""
    return {**job_labels(job), STEP_LABEL: step.value, ATTEMPT_LABEL: str(attempt)}


def family_name(job: FineTuneJob) -> str:
    """Name of what a job has once: its Service, its NetworkPolicy."""
    return f"{job.metadata.name}-{job.metadata.uid[:6]}"


def gang_name(job: FineTuneJob, step: Step, attempt: int) -> str:
    """Name of a gang's Job and of its run; at most 63 characters, since a job's has at most 40."""
    return f"{family_name(job)}-{step.value}-{attempt}"


def report_name(gang: str) -> str:
    """Name of the ConfigMap that keeps a gang's report."""
    return f"{gang}-report"


def workspace_claim_name(job: FineTuneJob) -> str:
    """Name of the claim that is made for a job that names none."""
    return f"{family_name(job)}-workspace"
