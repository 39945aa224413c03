"""What ties an object to its job: it goes when the job is gone."""

from finetune_api.job import FineTuneJob
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.names import job_labels


def owner_reference(job: FineTuneJob) -> Manifest:
    """The job as the object's one controller.

    It doesn't block the job's deletion: the job waits for its own finalizer and for nothing else.
    """
    return {
        "apiVersion": job.api_version,
        "kind": job.kind,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def owned_metadata(job: FineTuneJob, name: str) -> Manifest:
    """Metadata of an object that lives as long as its job."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": job_labels(job),
        "ownerReferences": [owner_reference(job)],
    }
