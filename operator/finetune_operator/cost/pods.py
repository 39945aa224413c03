"""What an engine knows of one pod: the facts that money and decisions are made from.

On a cluster they are the API server's; in a local run a pod is a supervised process. Times are
aware datetimes in UTC.
"""

from dataclasses import dataclass
from datetime import datetime

from finetune_api.report import Step, Termination
from finetune_api.usage import EndEvidence

CPU_DEVICE = "cpu"
"""The device of ranks that hold no accelerator."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a pod is bound, as far as a price depends on it."""

    node: str
    device: str
    """The accelerator's product name, or ``cpu`` where ranks run on processors."""
    milli_devices: int
    """Thousandths of devices held; 1000 per rank."""
    milli_cores: int = 0
    """What a pod on processors holds of a cluster's node; 0 where an accelerator is paid for."""
    memory_mebibytes: int = 0
    """Its memory; 0 likewise."""
    provider: str | None = None
    region: str | None = None
    capacity_type: str | None = None
    local: bool = False
    """A local run: priced by the entry named ``local``, per rank."""
    fake_gpu: bool = False
    """A CPU stands in for the accelerator that the price is of."""


@dataclass(frozen=True, kw_only=True)
class PodView:
    """One pod of one attempt."""

    uid: str
    step: Step
    attempt: int
    worker: int
    created_at: datetime
    released: bool
    """Whether its scheduling gate is gone: only then can it bind and cost."""
    released_at: datetime | None = None
    run_digest: str | None = None
    """Digest of the run that it was made for; None where an engine can't make another one."""
    placement: Placement | None = None
    bound_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    """When nothing of it held a device any more; unset while it may still."""
    end_evidence: EndEvidence | None = None
    confirmed: bool = True
    silent: bool = False
    """Its node doesn't answer and may come back: then its end is told anew, or it goes on."""
    exit_code: int | None = None
    """Of the trainer's container; 128 + n after signal n."""
    ended_as: str | None = None
    """Reason of the container's end in the kubelet's words (OOMKilled, Error, …)."""
    last_words: str = ""
    """What it left instead of a termination message: the last lines of its log."""
    termination: Termination | None = None
    disrupted: str | None = None
    """Reason of a DisruptionTarget condition (preemption, eviction, taint)."""
    kept: bool = True
    """Whether an engine still keeps it for its record."""
    stopping: bool = False
    """It was asked to end."""
    waiting: str | None = None
    """Why it does not start yet, in the words of scheduler or kubelet."""

    @property
    def live(self) -> bool:
        """Whether it may still hold devices or be given some."""
        return self.finished_at is None
