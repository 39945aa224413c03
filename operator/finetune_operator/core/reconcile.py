"""One look, one decision: the whole of what a job's controller knows, without doing any of it.

Called by every engine through ``engine.step``. Takes in what has ended, asks the policies in order,
advances the gangs, and writes the status anew from the facts.
"""

from datetime import datetime

from finetune_api.phases import TERMINAL, ConditionType
from finetune_api.status import JobStatus
from finetune_api.times import format_time
from finetune_operator.core.bookkeeping import currency_of, keep_books, with_use
from finetune_operator.core.conditions import is_true
from finetune_operator.core.decision import Decision, Event
from finetune_operator.core.gangs import GangStep, advance
from finetune_operator.core.intake import take_in
from finetune_operator.core.observed import Observed
from finetune_operator.core.outlook import with_cost, with_progress
from finetune_operator.core.policies import POLICIES
from finetune_operator.core.resolve import resolve
from finetune_operator.core.situation import Finding, Situation, Verdict
from finetune_operator.core.status import (
    admitted,
    apply_finding,
    flips,
    with_phase,
    worth_writing,
)
from finetune_operator.cost.ledger import totals

_SOON_SECONDS = 0.2
"""What was done now is there to be read at once."""
_LONGEST_REST_SECONDS = 86_400.0
"""Whoever waited for longer would not notice that a clock which was wrong was set right."""


def reconcile(observed: Observed, now: datetime) -> Decision:
    """Decide what to do about one job.

    The same facts give the same decision; once a decision is carried out, the next look finds
    either something changed or nothing left to do.
    """
    before = observed.job.status or JobStatus()
    intake = take_in(observed, before, now)
    situation = _situation(observed, intake.status, now)
    finding = _first_finding(situation)
    if _may_be_admitted(situation, finding):
        resolved = resolve(observed.job, observed.engine, smoke=observed.smoke)
        situation = _situation(observed, admitted(situation, resolved), now)
        finding = _first_finding(situation)
    gangs = advance(situation, finding)
    status = with_phase(apply_finding(situation, gangs, finding))
    books = keep_books(observed, status, now)
    status = with_use(status, books.records)
    status = with_progress(status, observed, now)
    status = with_cost(status, observed, books.records, now)
    status = status.model_copy(update={"observed_generation": observed.job.metadata.generation})
    actions = (*books.actions, *gangs.actions)
    events = (*intake.events, *gangs.events, *flips(before, status))
    running = any(row.state != "Ended" for row in status.attempts)
    resting = _resting(status, finding, running=running)
    write = worth_writing(before, status, now, running=running)
    if write:
        status = status.model_copy(update={"last_update_time": format_time(now)})
    finished = resting and not actions and not write and not gangs.busy
    expired = finished and _is_due(finding, now)
    ending = _ending(finding) if expired else ()
    return Decision(
        status=status,
        write_status=write,
        actions=actions,
        events=(*events, *ending),
        look_again_seconds=_look_again(
            situation, gangs, finding, resting=resting, changed=write or bool(actions)
        ),
        finished=finished,
        expired=expired,
    )


def _situation(observed: Observed, status: JobStatus, now: datetime) -> Situation:
    records = keep_books(observed, status, now).records
    return Situation(
        observed=observed,
        now=now,
        status=status,
        records=records,
        totals=totals(records, currency_of(observed, records, now), now),
    )


def _first_finding(situation: Situation) -> Finding | None:
    answers = (policy(situation) for policy in POLICIES)
    found = (finding for finding in answers if finding is not None)
    first = next(found, None)
    if first is None or first.verdict is not Verdict.HOLD or situation.running is None:
        return first
    # What holds back a start must not hide what stops a gang: a limit, a wish, a rank's death.
    return next((finding for finding in found if finding.verdict is not Verdict.HOLD), first)


def _may_be_admitted(situation: Situation, finding: Finding | None) -> bool:
    if is_true(situation.status.conditions, ConditionType.ADMITTED):
        return False
    return finding is None or (
        finding.admitted and finding.verdict in (Verdict.HOLD, Verdict.SUSPEND)
    )


def _resting(status: JobStatus, finding: Finding | None, *, running: bool) -> bool:
    """Whether nothing will happen until the manifest, a rate card or a budget changes."""
    if running:
        return False
    if status.phase in TERMINAL:
        return True
    if finding is None:
        return False
    return finding.verdict is Verdict.SUSPEND or (
        finding.verdict is Verdict.HOLD and finding.until is None
    )


def _is_due(finding: Finding | None, now: datetime) -> bool:
    """Whether the moment has come that a rest lasts to."""
    return finding is not None and finding.until is not None and now >= finding.until


def _ending(finding: Finding | None) -> tuple[Event, ...]:
    """What is told of a job before it is deleted: the event stays a while longer than it."""
    if finding is None:
        return ()
    return (Event(kind="Normal", reason="TTLExpired", message=finding.message),)


def _until_due(finding: Finding | None, now: datetime) -> float | None:
    """When to look at a rest that ends by itself; once it has, nobody looks any more."""
    if finding is None or finding.until is None or _is_due(finding, now):
        return None
    left = (finding.until - now).total_seconds()
    return min(max(_SOON_SECONDS, left), _LONGEST_REST_SECONDS)


def _look_again(
    situation: Situation,
    gangs: GangStep,
    finding: Finding | None,
    *,
    resting: bool,
    changed: bool,
) -> float | None:
    if resting:
        return _SOON_SECONDS if changed else _until_due(finding, situation.now)
    if gangs.actions and not gangs.blocked:
        return _SOON_SECONDS
    if gangs.busy:
        return situation.observed.engine.poll_seconds
    if finding is not None and finding.until is not None:
        return max(_SOON_SECONDS, (finding.until - situation.now).total_seconds())
    if situation.running is None:
        return _SOON_SECONDS
    return situation.observed.engine.control_interval_seconds
