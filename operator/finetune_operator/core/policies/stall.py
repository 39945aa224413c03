"""A training gang that gets no further for too long holds devices for nothing: it is restarted.

Steps are signs of work, and between them parts of a save on the disk and scored rows.
"""

from datetime import datetime, timedelta

from finetune_api.report import FailureClass, Step
from finetune_api.times import parse_time
from finetune_operator.core.situation import Finding, Situation, Verdict, marks_of


def stall(situation: Situation) -> Finding | None:
    """End an attempt whose last sign of work is older than ``policy.stallTimeoutSeconds``."""
    attempt = situation.running
    if attempt is None or attempt.step is not Step.TRAIN or attempt.state == "Starting":
        return None
    timeout = timedelta(seconds=situation.observed.job.spec.policy.stall_timeout_seconds)
    last = _last_work(situation)
    if last is None or situation.now - last < timeout:
        return None
    return Finding(
        verdict=Verdict.END_ATTEMPT,
        reason=FailureClass.STALLED,
        message=f"No step, saved bytes or scored rows since {last.isoformat(timespec='seconds')}.",
    )


def _last_work(situation: Situation) -> datetime | None:
    attempt = situation.running
    if attempt is None:
        return None
    starts = [pod.started_at for pod in situation.pods_of(attempt.number)]
    if not starts or any(start is None for start in starts):
        return None
    signs = [start for start in starts if start is not None]
    marks = marks_of(situation.observed, attempt)
    if marks is not None:
        said = (
            marks.started_at,
            marks.first_step_at,
            marks.last_step_at,
            marks.checkpoint_at,
            marks.working_at,
        )
        signs += [parse_time(moment) for moment in said if moment is not None]
    return min(max(signs), situation.now)
