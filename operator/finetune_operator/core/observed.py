"""Everything that a decision is made from, gathered by an engine in one look."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.job import FineTuneJob
from finetune_api.ratecard import RateCard
from finetune_api.report import Progress, ReportRef, Step
from finetune_api.usage import UsageRecord
from finetune_operator.cost.pods import Placement, PodView


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong with a manifest: where, what, and the fix."""

    field: str
    message: str
    source: str = ""
    """The file and line that it was read from, where that is known."""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.source, self.field, self.message) if part)


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What an engine can offer, and how it may map a gang.

    ``max_ranks`` is None where the manifest's gang is taken as it is (a cluster).
    """

    device: Literal["cpu", "cuda"]
    max_ranks: int | None = None
    placements: Mapping[Step, Placement] = field(default_factory=dict)
    """Where each step's pods would be bound; a step of which that is not known is left out."""
    device_memory_bytes: int | None = None
    """Memory of the smallest device that may train; None where that is not known."""
    control_interval_seconds: float = 15.0
    """The longest time between two looks at a running job."""
    records_namespace: str = "default"
    """Where usage records are kept: not with the job, for they outlive it."""
    poll_seconds: float = 0.2
    """How soon to look again for what is on the way, where nothing tells that it came."""
    image: str | None = None
    """The trainer's image that new jobs get; None where no image is needed."""
    workspace: str = ""
    """Where the job's workspace lies, as the head of an artifact's URI; empty: where it is run."""
    machine: str = ""
    """For people: what the gang was mapped to."""
    deletes_jobs: bool = False
    """Whether a finished job is an object that may be deleted (a cluster's)."""


@dataclass(frozen=True, kw_only=True)
class StoredReport:
    """A full report that an engine has read and whose digest it has checked."""

    ref: ReportRef
    prepare: PrepareReport | None = None
    evaluation: EvaluationReport | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One look at one job."""

    job: FineTuneJob
    engine: EngineFacts
    pods: tuple[PodView, ...] = ()
    records: tuple[UsageRecord, ...] = ()
    rate_cards: tuple[RateCard, ...] = ()
    progress: Progress | None = None
    """The newest that rank 0 of the running attempt said."""
    reports: tuple[StoredReport, ...] = field(default=())
    problems: tuple[Problem, ...] = ()
    """What the schema's rules found in the manifest, all of it."""
    blocked: str | None = None
    """Why the pods of the next attempt don't come, in the cluster's words."""
    ahead: str | None = None
    """Another job, whose gang is to get its devices before this one is let go."""
    interrupted: bool = False
    """The person at a local run asked it to stop (Ctrl-C)."""
    smoke: bool = False
