"""The claim that is made for a job that names none."""

from finetune_api.job import FineTuneJob
from finetune_api.storage import WhenDeleted
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.manifests.owner import owner_reference
from finetune_operator.kube.names import job_labels, workspace_claim_name


def workspace_claim(job: FineTuneJob) -> Manifest | None:
    """The PersistentVolumeClaim of the job's work; None where the job names one that is there.

    Only with ``whenDeleted: Delete`` it belongs to the job: the model outlives it otherwise.
    """
    storage = job.spec.storage
    if storage.claimed_size is None:
        return None
    metadata: Manifest = {
        "name": workspace_claim_name(job),
        "namespace": job.metadata.namespace,
        "labels": job_labels(job),
    }
    if storage.when_deleted is WhenDeleted.DELETE:
        metadata["ownerReferences"] = [owner_reference(job)]
    shared = job.spec.compute.workers > 1
    spec: Manifest = {
        "accessModes": ["ReadWriteMany" if shared else "ReadWriteOnce"],
        "resources": {"requests": {"storage": storage.claimed_size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": spec,
    }
