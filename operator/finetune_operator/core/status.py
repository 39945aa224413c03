"""The status as it will be written: conditions, phase, and the events of what changed.

Called by ``reconcile``; progress and cost are added by ``outlook``.
"""

from datetime import datetime, timedelta
from typing import Literal

from finetune_api.phases import ConditionType, Reason
from finetune_api.status import AttemptStatus, JobStatus, Resolved
from finetune_api.times import format_time, parse_time
from finetune_operator.core.conditions import find, is_true, phase_of, with_condition
from finetune_operator.core.decision import Event
from finetune_operator.core.gangs import GangStep
from finetune_operator.core.situation import Finding, Situation, Verdict

_WELCOME = frozenset(
    {
        ConditionType.ADMITTED,
        ConditionType.PREPARED,
        ConditionType.TRAINED,
        ConditionType.EVALUATION_PASSED,
        ConditionType.COMPLETE,
    }
)
"""Conditions whose False is a warning."""


_UNWELCOME = frozenset(
    {ConditionType.FAILED, ConditionType.OVERFITTING, ConditionType.BASELINE_PASSES}
)
"""Conditions whose True is one."""


_RUNNING_REASONS = {"Starting": Reason.STARTING, "Running": Reason.RUNNING}


def admitted(situation: Situation, resolved: Resolved) -> JobStatus:
    """The status of a job whose spec holds from now on."""
    status = _set(
        situation,
        situation.status,
        ConditionType.ADMITTED,
        Reason.ADMITTED,
        resolved.note or "The spec holds and is frozen.",
    )
    return status.model_copy(update={"resolved": resolved})


def apply_finding(situation: Situation, gangs: GangStep, finding: Finding | None) -> JobStatus:
    """The status with the conditions that follow from what was found and done."""
    status = gangs.status
    row = status.attempts[-1] if status.attempts else None
    running = row is not None and row.state != "Ended"
    if finding is None:
        return _proceeding(situation, status, gangs)
    told = {"reason": str(finding.reason) or status.reason, "message": finding.message[:1024]}
    match finding.verdict:
        case Verdict.REST:
            return status
        case Verdict.END_ATTEMPT:
            return _not_running(situation, status, Reason.STOPPING, finding.message).model_copy(
                update={**told, "reason": str(Reason.STOPPING)}
            )
        case Verdict.HOLD if not finding.admitted:
            status = _set(
                situation, status, ConditionType.ADMITTED, finding.reason, finding.message, "False"
            )
        case Verdict.HOLD if not running:
            status = _not_running(situation, status, finding.reason, finding.message)
        case Verdict.HOLD:
            return status
        case _ if row is not None and running:
            # Told as it was when the stop was asked for: the figures in it go on growing.
            message = row.message or finding.message
            told["message"] = message
            status = _not_running(situation, status, Reason.STOPPING, message)
        case Verdict.SUSPEND:
            status = _not_running(situation, status, Reason.NOT_RUNNING, "Nothing runs.")
            status = _set(
                situation, status, ConditionType.SUSPENDED, finding.reason, finding.message
            )
        case Verdict.COMPLETE | Verdict.FAIL:
            status = _over(situation, status, finding)
    return status.model_copy(update=told)


def _over(situation: Situation, status: JobStatus, finding: Finding) -> JobStatus:
    complete = finding.verdict is Verdict.COMPLETE
    kind = ConditionType.COMPLETE if complete else ConditionType.FAILED
    status = _not_running(situation, status, Reason.NOT_RUNNING, "The job is over.")
    status = _set(situation, status, kind, finding.reason, finding.message)
    return status.model_copy(
        update={"completion_time": format_time(situation.now), "retry_time": None}
    )


def _proceeding(situation: Situation, status: JobStatus, gangs: GangStep) -> JobStatus:
    row = status.attempts[-1] if status.attempts else None
    if is_true(status.conditions, ConditionType.SUSPENDED):
        status = _set(
            situation, status, ConditionType.SUSPENDED, Reason.RESUMED, "It goes on.", "False"
        )
    if row is None or row.state == "Ended":
        reason, message = Reason.STARTING, "The next step starts."
        if gangs.blocked:
            reason = Reason.GANG_BLOCKED
            message = f"The next step's pods don't come: {gangs.blocked}"
        return _not_running(situation, status, reason, message).model_copy(
            update={"reason": str(reason), "message": message[:1024]}
        )
    if row.state == "Stopping":
        return status
    reason = _RUNNING_REASONS[row.state]
    message = f"Attempt {row.number}: {row.step}."
    if gangs.ahead:
        message += f" It waits until {gangs.ahead} has its devices."
    elif row.state == "Starting":
        message += _obstacle(situation, row)
    state: Literal["True", "False"] = "True" if row.state == "Running" else "False"
    status = _set(situation, status, ConditionType.RUNNING, reason, message, state)
    return status.model_copy(
        update={
            "reason": str(reason),
            "message": message[:1024],
            "start_time": status.start_time or row.start_time,
        }
    )


def _obstacle(situation: Situation, attempt: AttemptStatus) -> str:
    """What scheduler or kubelet say keeps a worker from starting; of a usual start, nothing."""
    for pod in situation.pods_of(attempt.number):
        said = pod.waiting or ""
        if pod.released and pod.live and pod.started_at is None and ": " in said:
            return f" Worker {pod.worker} does not start: {said}"
    return ""


def _not_running(situation: Situation, status: JobStatus, reason: str, message: str) -> JobStatus:
    return _set(situation, status, ConditionType.RUNNING, reason, message, "False")


def _set(
    situation: Situation,
    status: JobStatus,
    kind: ConditionType,
    reason: str,
    message: str,
    state: Literal["True", "False"] = "True",
) -> JobStatus:
    conditions = with_condition(
        status.conditions,
        kind,
        state,
        reason,
        message,
        now=situation.now,
        generation=situation.observed.job.metadata.generation,
    )
    return status.model_copy(update={"conditions": conditions})


def with_phase(status: JobStatus) -> JobStatus:
    """The status with the phase that its conditions give."""
    return status.model_copy(update={"phase": phase_of(status.conditions)})


_LEAST_INTERVAL = timedelta(seconds=30)
_FIGURES = ("progress", "cost", "estimate", "last_update_time")
_FIGURES_OF_ATTEMPT = ("marks", "device_seconds", "lost_device_seconds")


def worth_writing(before: JobStatus, after: JobStatus, now: datetime, *, running: bool) -> bool:
    """Whether a status says something new; figures alone are new every 30 s while pods run."""
    if after == before:
        return False
    if not running or _without_figures(after) != _without_figures(before):
        return True
    if before.last_update_time is None:
        return True
    # A moment that is yet to come was written by a clock that was ahead: it is not waited for.
    return abs(now - parse_time(before.last_update_time)) >= _LEAST_INTERVAL


def _without_figures(status: JobStatus) -> JobStatus:
    attempts = tuple(
        row.model_copy(update=dict.fromkeys(_FIGURES_OF_ATTEMPT)) for row in status.attempts
    )
    return status.model_copy(update={**dict.fromkeys(_FIGURES), "attempts": attempts})


def flips(before: JobStatus, after: JobStatus) -> tuple[Event, ...]:
    """An event for each condition that changed, except for Running (attempts tell that)."""
    events: list[Event] = []
    for condition in after.conditions:
        earlier = find(before.conditions, condition.type)
        if condition.type is ConditionType.RUNNING:
            continue
        if earlier is not None and earlier.status == condition.status:
            continue
        if any(
            (event.reason, event.message) == (condition.reason, condition.message)
            for event in events
        ):
            # A failed gate fails the job: one story, told once.
            continue
        bad = condition.type in _UNWELCOME or (
            condition.type in _WELCOME and condition.status == "False"
        )
        events.append(
            Event(
                kind="Warning" if bad else "Normal",
                reason=condition.reason,
                message=condition.message,
            )
        )
    return tuple(events)
