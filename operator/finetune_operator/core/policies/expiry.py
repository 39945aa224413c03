"""A job that is over is deleted once its time is, if ``policy.ttlSecondsAfterFinished`` says so."""

from datetime import timedelta

from finetune_api.phases import TERMINAL, ConditionType
from finetune_api.report import Step
from finetune_api.storage import WhenDeleted
from finetune_api.times import parse_time
from finetune_operator.core.conditions import is_true
from finetune_operator.core.situation import Finding, Situation, Verdict
from finetune_operator.cost.records import latest


def expiry(situation: Situation) -> Finding | None:
    """Rest as every finished job does, but only until the moment at which it is deleted.

    The time counts from ``status.completionTime``, which never changes: whoever looks, and after
    whatever restart, finds the same moment. A completion that lies ahead, by a clock that was
    wrong, makes it later and never sooner.
    """
    observed, status = situation.observed, situation.status
    seconds = observed.job.spec.policy.ttl_seconds_after_finished
    if seconds is None or status.phase not in TERMINAL or status.completion_time is None:
        return None
    if not observed.engine.deletes_jobs or observed.job.metadata.deletion_timestamp is not None:
        return None
    if not _books_closed(situation) or _unpublished(situation):
        return None
    claim = " The claim that was made for it goes along." if _takes_claim(situation) else ""
    return Finding(
        verdict=Verdict.REST,
        reason=status.reason or "",
        message=f"{status.phase} at {status.completion_time}, and deleted after {seconds} s "
        f"(policy.ttlSecondsAfterFinished).{claim} Its usage records stay.",
        until=parse_time(status.completion_time) + timedelta(seconds=seconds),
    )


def _books_closed(situation: Situation) -> bool:
    """Whether every record that counts is sealed and settled where it is stored."""
    return all(record.spec.lost_settled for record in latest(situation.observed.records))


def _unpublished(situation: Situation) -> bool:
    """Whether a trained model would be lost that was to go elsewhere and did not."""
    trained = is_true(situation.status.conditions, ConditionType.TRAINED)
    wanted = situation.observed.job.spec.output.uri is not None
    published = situation.completed(Step.EVALUATE)
    return trained and wanted and not published and _takes_claim(situation)


def _takes_claim(situation: Situation) -> bool:
    return situation.observed.job.spec.storage.when_deleted is WhenDeleted.DELETE
