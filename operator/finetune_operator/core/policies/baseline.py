"""A task that a conventional baseline already solves: no GPU is held for it, if the job says so."""

from finetune_api.phases import ConditionType, Reason
from finetune_api.policy import BaselinePasses
from finetune_api.report import Step
from finetune_operator.core.conditions import find, is_true
from finetune_operator.core.situation import Finding, Situation, Verdict


def baseline(situation: Situation) -> Finding | None:
    """Suspend a job that isn't trained yet, where ``policy.onBaselinePasses`` is Stop."""
    if situation.observed.job.spec.policy.on_baseline_passes is not BaselinePasses.STOP:
        return None
    conditions = situation.status.conditions
    condition = find(conditions, ConditionType.BASELINE_PASSES)
    if condition is None or not is_true(conditions, ConditionType.BASELINE_PASSES):
        return None
    if situation.completed(Step.TRAIN):
        return None
    return Finding(
        verdict=Verdict.SUSPEND,
        reason=Reason.BASELINE_PASSES,
        message=f"{condition.message} Set policy.onBaselinePasses to Continue to train all the "
        "same, or start a new job whose gate asks for more, such as errorReduction.",
    )
