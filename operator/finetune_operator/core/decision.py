"""What the core decides: actions of the engine, the status, events, and when to look again."""

from dataclasses import dataclass
from typing import Literal

from finetune_api.report import Step
from finetune_api.run import Run
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord

LAST_GRACE_SECONDS = 30
"""What a pod that nobody waits for any more gets to end."""


@dataclass(frozen=True, kw_only=True)
class CreateGang:
    """Make all pods of an attempt, gated: nothing binds or costs yet. Idempotent by number."""

    step: Step
    attempt: int
    run: Run


@dataclass(frozen=True, kw_only=True)
class ReleaseGang:
    """Take the gates away. Only ever decided when attempt and open record were read back."""

    step: Step
    attempt: int
    deadline_seconds: int | None = None
    """The longest that it may run, whoever is there to stop it; None where nothing limits it."""


@dataclass(frozen=True, kw_only=True)
class StopGang:
    """SIGTERM to every live pod of an attempt; after the grace, SIGKILL. Idempotent."""

    step: Step
    attempt: int
    grace_seconds: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ForgetGang:
    """The attempt's record is sealed: its pods need be kept no longer."""

    step: Step
    attempt: int


@dataclass(frozen=True, kw_only=True)
class WriteRecord:
    """Create or replace a usage record, by name."""

    record: UsageRecord


Action = CreateGang | ReleaseGang | StopGang | ForgetGang | WriteRecord


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something worth telling, once the status write held."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer to one look.

    Records are written before the status, the status before every other action, so that each
    later look finds at least what this one relied on.
    """

    status: JobStatus
    write_status: bool
    """False where the status says nothing new, or only progress and cost too soon again."""
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    look_again_seconds: float | None = None
    """None: nothing is due until something changes."""
    finished: bool = False
    """Nothing is left to do: terminal or saved and waiting, records sealed, pods forgotten."""
    expired: bool = False
    """Finished, and its time after that is over too: the job is to be deleted."""
