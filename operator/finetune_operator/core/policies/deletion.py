"""A job that is being deleted stops with its work saved and is over."""

from finetune_api.phases import Reason
from finetune_operator.core.situation import Finding, Situation, Verdict


def deletion(situation: Situation) -> Finding | None:
    """Fail, once the job carries a deletion timestamp."""
    if situation.observed.job.metadata.deletion_timestamp is None:
        return None
    return Finding(
        verdict=Verdict.FAIL,
        reason=Reason.DELETED,
        message="The job is being deleted; its checkpoints and model stay.",
    )
