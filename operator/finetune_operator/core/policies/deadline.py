"""A job may run for so long and no longer; time without pods is not counted."""

from datetime import timedelta

from finetune_api.phases import Reason
from finetune_api.times import milliseconds_between, parse_time
from finetune_operator.core.situation import Finding, Situation, Verdict


def deadline(situation: Situation) -> Finding | None:
    """Fail, with the work saved, past ``policy.activeDeadlineSeconds`` of running."""
    limit = situation.observed.job.spec.policy.active_deadline_seconds
    if limit is None:
        return None
    used = active_time(situation)
    if used < timedelta(seconds=limit):
        return None
    return Finding(
        verdict=Verdict.FAIL,
        reason=Reason.DEADLINE_EXCEEDED,
        message=f"It ran for {int(used.total_seconds())} s; policy.activeDeadlineSeconds is "
        f"{limit}. Its checkpoints stay.",
    )


def active_time(situation: Situation) -> timedelta:
    """Time in which at least one pod of an attempt held a device, summed over attempts."""
    total = 0
    for record in situation.records:
        entries = record.spec.entries
        if not entries:
            continue
        since = min(parse_time(entry.since) for entry in entries)
        until = max(parse_time(entry.until) if entry.until else situation.now for entry in entries)
        total += milliseconds_between(since, until)
    return timedelta(milliseconds=total)
