"""FineTuneJob.spec.storage: the volume that a job's work is kept on."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.markers import Bytes, Cel, Contract, ObjectName, rules

DEFAULT_SIZE = "20Gi"


class WhenDeleted(StrEnum):
    """What becomes of the work when the job is deleted."""

    RETAIN = "Retain"
    DELETE = "Delete"


@rules(
    Cel(
        "!(has(self.claim) && has(self.size))",
        "storage.claim and storage.size exclude each other: name a claim, or have one made",
    ),
    Cel(
        "!(has(self.claim) && has(self.storageClassName))",
        "storage.storageClassName goes with size: the claim that you name has its class already",
    ),
    Cel(
        "!has(self.claim) || self.whenDeleted == 'Retain'",
        "storage.whenDeleted Delete goes with size: a claim that you name is yours to delete",
    ),
)
class Storage(Contract):
    """Where data, checkpoints and the model are kept: on a claim that is there, or on a new one.

    A local run keeps all of it in the workspace's folder and takes nothing from here.
    """

    claim: Annotated[
        ObjectName | None,
        Field(
            description="A PersistentVolumeClaim of the job's namespace. The job has a folder of "
            "its own in it, named by its UID. More than one worker needs ReadWriteMany."
        ),
    ] = None
    size: Annotated[
        Bytes | None,
        Field(description=f"Claim so much for this job; {DEFAULT_SIZE} where claim is left out."),
    ] = None
    storage_class_name: Annotated[
        ObjectName | None,
        Field(description="Class of the new claim; left out, the cluster's default."),
    ] = None
    when_deleted: Annotated[
        WhenDeleted,
        Field(
            description="Whether the claim made for the job outlives it: Retain keeps the model, "
            "Delete deletes it with the job."
        ),
    ] = WhenDeleted.RETAIN

    @property
    def claimed_size(self) -> str | None:
        """How much is claimed for the job; None where it names a claim."""
        return None if self.claim else self.size or DEFAULT_SIZE
