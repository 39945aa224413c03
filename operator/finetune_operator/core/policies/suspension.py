"""A job is suspended while its manifest says so, or the person at a local run stopped it."""

from finetune_api.phases import Reason
from finetune_operator.core.situation import Finding, Situation, Verdict


def suspension(situation: Situation) -> Finding | None:
    """Suspend on ``spec.suspend`` or on an interrupt."""
    if situation.observed.job.spec.suspend:
        return Finding(
            verdict=Verdict.SUSPEND,
            reason=Reason.SUSPENDED_BY_USER,
            message="spec.suspend is true; set it to false to go on from the last checkpoint.",
        )
    if situation.observed.interrupted:
        return Finding(
            verdict=Verdict.SUSPEND,
            reason=Reason.INTERRUPTED,
            message="Interrupted; run it again in the same workspace to go on.",
        )
    return None
