"""The end of a job: everything done, a gate that doesn't hold, or a failure that stays."""

from finetune_api.phases import ConditionType, Reason
from finetune_api.report import FailureClass, Step
from finetune_api.status import AttemptStatus
from finetune_operator.core.classify import COMPLETED
from finetune_operator.core.conditions import find, is_true
from finetune_operator.core.failures import RESPONSES, Response, failures_in_a_row
from finetune_operator.core.resolve import smaller_footprint
from finetune_operator.core.situation import Finding, Situation, Verdict

_REPORTS_MISSED = 5
"""So often the step is run again for a report; an operator that was away misses one."""


def outcome(situation: Situation) -> Finding | None:
    """Complete or fail, as the last attempt and the gate say."""
    conditions = situation.status.conditions
    if situation.completed(Step.EVALUATE):
        passed = is_true(conditions, ConditionType.EVALUATION_PASSED)
        condition = find(conditions, ConditionType.EVALUATION_PASSED)
        message = condition.message if condition else ""
        if passed:
            return Finding(verdict=Verdict.COMPLETE, reason=Reason.EXPORTED, message=message)
        return Finding(verdict=Verdict.FAIL, reason=Reason.GATE_FAILED, message=message)
    attempt = situation.attempt
    if attempt is None or attempt.state != "Ended" or attempt.reason in (None, COMPLETED):
        return None
    return _lasting_failure(situation, attempt)


def _lasting_failure(situation: Situation, attempt: AttemptStatus) -> Finding | None:
    if attempt.reason not in set(FailureClass):
        return None
    failure = FailureClass(attempt.reason or "")
    response = RESPONSES[failure]
    message = attempt.message or ""
    if response is Response.FAIL_NOW:
        return Finding(verdict=Verdict.FAIL, reason=failure, message=message)
    limit = situation.observed.job.spec.policy.backoff_limit
    if situation.status.charged_failures > limit:
        return Finding(
            verdict=Verdict.FAIL,
            reason=Reason.BACKOFF_LIMIT_EXCEEDED,
            message=f"{situation.status.charged_failures} failures, policy.backoffLimit is "
            f"{limit}; the last one was {failure}: {message}",
        )
    missed = failures_in_a_row(situation.status, FailureClass.REPORT_MISSED)
    if missed >= _REPORTS_MISSED:
        return Finding(
            verdict=Verdict.FAIL,
            reason=failure,
            message=f"The report was not received {missed} times: the operator must reach its "
            "pods' progress port (see NetworkPolicies), or the workspace their report.",
        )
    resolved = situation.status.resolved
    if response is Response.ADAPT and resolved and smaller_footprint(resolved) is None:
        return Finding(
            verdict=Verdict.FAIL,
            reason=failure,
            message=f"Out of device memory with a micro-batch of {resolved.micro_batch_size} and "
            "activation checkpointing: shorten training.maxLength, raise deepspeed.zeroStage, set "
            f"deepspeed.offload, or use more workers. {message}",
        )
    return None
