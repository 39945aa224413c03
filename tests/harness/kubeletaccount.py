"""What every pod of the simulated nodes really held: the account that the ledger is compared with.

Kept by the kubelet beside its work, in whole seconds as the API server has them. It depends on
nothing that the operator does or fails to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from finetune_api.report import Step
from finetune_api.times import parse_time
from finetune_operator.kube.names import ATTEMPT_ANNOTATION, GPU_RESOURCE, STEP_LABEL
from harness.clusterclient import Object
from harness.kubeletscript import Ending

INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"


@dataclass
class Entry:
    """One pod that was bound to a simulated node."""

    uid: str
    namespace: str
    name: str
    node: str
    step: Step | None
    """None for a pod that is no trainer's."""
    attempt: int | None
    """The number that it was released with."""
    worker: int
    gpus: int
    bound: datetime
    """When the scheduler gave it its devices."""
    started: datetime | None = None
    """When its container started."""
    finished: datetime | None = None
    """When it held nothing any more."""
    ending: Ending | None = field(default=None, repr=False)

    @property
    def exit_code(self) -> int | None:
        """How its container ended, once it has."""
        return None if self.ending is None else self.ending.exit_code

    @property
    def seconds(self) -> int:
        """Whole seconds that it held its node's devices; it must have ended."""
        assert self.finished is not None, f"{self.name} still runs"
        return round((self.finished - self.bound).total_seconds())

    @property
    def gpu_seconds(self) -> int:
        """GPU-seconds that it held; it must have ended."""
        return self.gpus * self.seconds

    def ended(self, at: datetime, ending: Ending) -> None:
        """Close the entry."""
        self.finished, self.ending = at, ending


def open_entry(pod: Object) -> Entry:
    """Begin the account of a pod that was bound."""
    metadata = pod["metadata"]
    annotations = metadata.get("annotations", {})
    step = metadata.get("labels", {}).get(STEP_LABEL)
    attempt = annotations.get(ATTEMPT_ANNOTATION)
    bound = next(
        condition["lastTransitionTime"]
        for condition in pod["status"]["conditions"]
        if condition["type"] == "PodScheduled" and condition["status"] == "True"
    )
    limits = (it.get("resources", {}).get("limits", {}) for it in pod["spec"]["containers"])
    return Entry(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        node=pod["spec"]["nodeName"],
        step=Step(step) if step else None,
        attempt=int(attempt) if attempt else None,
        worker=int(annotations.get(INDEX_ANNOTATION, 0)),
        gpus=sum(int(limit.get(GPU_RESOURCE, 0)) for limit in limits),
        bound=parse_time(bound),
    )
