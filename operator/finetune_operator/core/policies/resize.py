"""A job that is admitted may get more workers, if what they are to share can be shared."""

from finetune_api.phases import ConditionType, Reason
from finetune_operator.core.conditions import is_true
from finetune_operator.core.situation import Finding, Situation, Verdict


def resize(situation: Situation) -> Finding | None:
    """Suspend while a changed ``spec.compute.workers`` doesn't go with the job's claims.

    An engine looks for what is wrong with an admitted job only when its gang is to grow.
    """
    problems = situation.observed.problems
    if not problems or not is_true(situation.status.conditions, ConditionType.ADMITTED):
        return None
    return Finding(
        verdict=Verdict.SUSPEND,
        reason=Reason.INVALID_SPEC,
        message="; ".join(str(problem) for problem in problems),
    )
