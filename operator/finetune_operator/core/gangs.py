"""The straight way of a job's gangs: create, persist, release, stop. Called by reconcile.

Each look does at most one of these, and the next relies only on what it reads back: an attempt's
number and its open record are durable before its pods may run (design.md §6).
"""

from dataclasses import dataclass

from finetune_api.digests import run_digest
from finetune_api.report import Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_api.times import format_time
from finetune_api.usage import JobReference
from finetune_operator.core.decision import (
    Action,
    CreateGang,
    Event,
    ReleaseGang,
    StopGang,
    WriteRecord,
)
from finetune_operator.core.policies.budget import seconds_left
from finetune_operator.core.resolve import resolved_for_next, run_for
from finetune_operator.core.situation import Finding, Situation, Verdict, marks_of
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.records import open_record, record_name

_STOPPING_VERDICTS = frozenset(
    {Verdict.FAIL, Verdict.SUSPEND, Verdict.END_ATTEMPT, Verdict.REST, Verdict.COMPLETE}
)


@dataclass(frozen=True, kw_only=True)
class GangStep:
    """What the gangs need next: the status with its attempts, and actions."""

    status: JobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    busy: bool = False
    """Something of it is on the way: look again soon."""
    blocked: str = ""
    """Why the next attempt's pods don't come, if they don't."""
    ahead: str = ""
    """The job whose gang is placed before this one, if there is one."""


def advance(situation: Situation, finding: Finding | None) -> GangStep:
    """Take the next step with the running attempt, or towards the next one."""
    attempt = situation.running
    if attempt is not None and attempt.state == "Stopping":
        return _go_on_stopping(situation, attempt)
    if attempt is not None:
        return _with_running(situation, attempt, finding)
    if finding is not None:
        return GangStep(status=situation.status)
    return _towards_next(situation)


def _with_running(
    situation: Situation, attempt: AttemptStatus, finding: Finding | None
) -> GangStep:
    pods = situation.pods_of(attempt.number)
    if finding is not None and finding.verdict in _STOPPING_VERDICTS:
        return _stop(situation, attempt, pods, finding)
    if attempt.state == "Starting" and not all(pod.released for pod in pods):
        if finding is not None or not _persisted(situation, attempt):
            return GangStep(status=situation.status, busy=finding is None)
        if any(pod.attempt != attempt.number for pod in situation.live_pods):
            # A node that counted as lost came back with a pod of an earlier attempt, which ends.
            return GangStep(status=situation.status, busy=True)
        ahead = situation.observed.ahead
        if ahead is not None and not any(pod.released for pod in pods):
            return GangStep(status=situation.status, busy=True, ahead=ahead)
        release = ReleaseGang(
            step=attempt.step, attempt=attempt.number, deadline_seconds=_deadline(situation)
        )
        return GangStep(status=situation.status, actions=(release,), busy=True)
    return _observe(situation, attempt, pods)


def _stop(
    situation: Situation, attempt: AttemptStatus, pods: tuple[PodView, ...], finding: Finding
) -> GangStep:
    row = attempt.model_copy(
        update={
            "state": "Stopping",
            "reason": str(finding.reason) or None,
            "message": finding.message[:1024],
            "marks": marks_of(situation.observed, attempt),
        }
    )
    event = Event(kind="Normal", reason="Stopping", message=finding.message)
    return GangStep(
        status=_with_row(situation.status, row),
        actions=_ask_to_end(situation, row, pods),
        events=(event,),
        busy=True,
    )


def _go_on_stopping(situation: Situation, attempt: AttemptStatus) -> GangStep:
    """Carry through a stop that was noted, whatever has become of what asked for it.

    Between the note and the request itself anything may have died.
    """
    actions = _ask_to_end(situation, attempt, situation.pods_of(attempt.number))
    return GangStep(status=situation.status, actions=actions, busy=True)


def _ask_to_end(
    situation: Situation, attempt: AttemptStatus, pods: tuple[PodView, ...]
) -> tuple[StopGang, ...]:
    if not any(pod.live and not pod.stopping for pod in pods):
        return ()
    grace = situation.observed.job.spec.policy.grace_period_seconds
    stop = StopGang(
        step=attempt.step,
        attempt=attempt.number,
        grace_seconds=grace,
        reason=attempt.message or "",
    )
    return (stop,)


def _persisted(situation: Situation, attempt: AttemptStatus) -> bool:
    """Whether the attempt and its record were read back, not only meant to be written."""
    before = situation.observed.job.status
    name = record_name(situation.observed.job.metadata.uid, attempt.number)
    return (
        before is not None
        and before.attempt >= attempt.number
        and any(record.metadata.name == name for record in situation.observed.records)
    )


def _deadline(situation: Situation) -> int | None:
    """The most that the gang may take from its release on, its start included."""
    left = seconds_left(situation)
    if left is None:
        return None
    return left + situation.observed.job.spec.policy.start_timeout_seconds


def _observe(situation: Situation, attempt: AttemptStatus, pods: tuple[PodView, ...]) -> GangStep:
    """Note what a running attempt shows of itself."""
    update: dict[str, object] = {"marks": marks_of(situation.observed, attempt)}
    events: tuple[Event, ...] = ()
    starts = [pod.started_at for pod in pods if pod.started_at is not None]
    if attempt.state == "Starting" and len(starts) == len(pods) > 0:
        update |= {"state": "Running", "start_time": format_time(min(starts))}
        nodes = {pod.placement.node for pod in pods if pod.placement}
        events = (
            Event(
                kind="Normal",
                reason="Started",
                message=f"Attempt {attempt.number} ({attempt.step}) runs with {len(pods)} "
                f"worker(s) on {', '.join(sorted(nodes))}.",
            ),
        )
    row = attempt.model_copy(update=update)
    return GangStep(status=_with_row(situation.status, row), events=events, busy=not starts)


def _towards_next(situation: Situation) -> GangStep:
    status, observed = situation.status, situation.observed
    step = next((step for step in Step if not situation.completed(step)), None)
    if step is None:
        return GangStep(status=status)
    if situation.live_pods:
        return GangStep(status=status, busy=True)
    number = status.attempt + 1
    resolved = resolved_for_next(observed.job, observed.engine, status)
    run = run_for(observed.job, step, resolved, status.best_checkpoint)
    # A gang that was made before a change of the manifest is not this one: it is made anew.
    pods = [pod for pod in situation.pods_of(number) if pod.run_digest in (None, run_digest(run))]
    if len(pods) < run.gang.workers:
        create = CreateGang(step=step, attempt=number, run=run)
        return GangStep(status=status, actions=(create,), busy=True, blocked=observed.blocked or "")
    row = AttemptStatus(number=number, step=step)
    job = JobReference.of(observed.job.metadata)
    record = open_record(job, step, number, observed.engine.records_namespace)
    return GangStep(
        status=status.model_copy(
            update={
                "attempt": number,
                "attempts": (*status.attempts, row)[-10:],
                "resolved": resolved,
                "retry_time": None,
            }
        ),
        actions=(WriteRecord(record=record),),
        busy=True,
    )


def _with_row(status: JobStatus, row: AttemptStatus) -> JobStatus:
    return status.model_copy(
        update={
            "attempts": tuple(row if old.number == row.number else old for old in status.attempts)
        }
    )
