"""What a trainer pod sees of disks: its job's workspace and sources, its run, and scratch space."""

from collections.abc import Iterator

from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_api.run import Run
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.names import workspace_claim_name

WORKSPACE = "/workspace"
CLAIMS = "/claims"
RUN_FOLDER = "/etc/finetune"
SCRATCH = "/tmp"  # noqa: S108 - a volume of the pod's own
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where collectives expect it

_WORKSPACE_VOLUME = "workspace"
_SCHEME = "pvc://"


def volumes(job: FineTuneJob, run: Run, gang: str) -> list[Manifest]:
    """The pod's volumes. A claim is there once, whatever it is mounted for."""
    workspace = workspace_claim_of(job)
    return [
        {
            "name": _WORKSPACE_VOLUME,
            "persistentVolumeClaim": {"claimName": workspace},
        },
        *(
            {
                "name": volume,
                # So mounted, a volume's files also keep the group that they have.
                "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
            }
            for claim, volume in _sources(job, run).items()
            if claim != workspace
        ),
        {"name": "run", "configMap": {"name": gang}},
        {"name": "scratch", "emptyDir": {}},
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": job.spec.compute.memory},
        },
    ]


def mounts(job: FineTuneJob, run: Run) -> list[Manifest]:
    """Where the trainer's container finds them.

    It can write into the job's own folder alone, named by uid: the work of another job on the same
    claim, of one of the same name even, is out of its reach.
    """
    return [
        {"name": _WORKSPACE_VOLUME, "mountPath": WORKSPACE, "subPath": job.metadata.uid},
        *(
            {"name": volume, "mountPath": f"{CLAIMS}/{claim}", "readOnly": True}
            for claim, volume in _sources(job, run).items()
        ),
        {"name": "run", "mountPath": RUN_FOLDER, "readOnly": True},
        {"name": "scratch", "mountPath": SCRATCH},
        {"name": "shared-memory", "mountPath": _SHARED_MEMORY},
    ]


def workspace_claim_of(job: FineTuneJob) -> str:
    """Name of the claim that the job's work lies on."""
    return job.spec.storage.claim or workspace_claim_name(job)


def _sources(job: FineTuneJob, run: Run) -> dict[str, str]:
    """The volume of each claim that the step reads from, by the claim's name."""
    workspace = workspace_claim_of(job)
    claims = dict.fromkeys(_claims(run))
    return {
        claim: _WORKSPACE_VOLUME if claim == workspace else f"source-{at}"
        for at, claim in enumerate(claims)
    }


def _claims(run: Run) -> Iterator[str]:
    """Claims in the order of the fields that name them; rows are read by the prepare step alone."""
    rows = (run.dataset.train, run.dataset.test) if run.step is Step.PREPARE else ()
    for uri in (run.model.uri, *rows):
        if uri is not None and uri.startswith(_SCHEME):
            yield uri.removeprefix(_SCHEME).partition("/")[0]
