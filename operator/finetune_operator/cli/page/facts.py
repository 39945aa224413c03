"""What the page is made from; whoever writes the page gathers it."""

from dataclasses import dataclass

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.job import FineTuneJob
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord


@dataclass(frozen=True, kw_only=True)
class PageFacts:
    """A job as it stands; a report is None where its step has not come to an end."""

    job: FineTuneJob
    records: tuple[UsageRecord, ...] = ()
    prepare: PrepareReport | None = None
    evaluation: EvaluationReport | None = None

    @property
    def status(self) -> JobStatus:
        """The job's status; an empty one where nothing was decided yet."""
        return self.job.status or JobStatus()
