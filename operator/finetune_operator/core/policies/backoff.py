"""After a failure the next attempt waits for its time."""

from finetune_api.phases import Reason
from finetune_api.times import parse_time
from finetune_operator.core.situation import Finding, Situation, Verdict


def backoff(situation: Situation) -> Finding | None:
    """Hold until ``status.retryTime``."""
    status = situation.status
    if status.retry_time is None:
        return None
    until = parse_time(status.retry_time)
    if situation.now >= until:
        return None
    attempt = situation.attempt
    return Finding(
        verdict=Verdict.HOLD,
        reason=Reason.RETRYING,
        message=f"The next attempt starts at {status.retry_time}."
        + (f" The last one: {attempt.message}" if attempt and attempt.message else ""),
        until=until,
    )
