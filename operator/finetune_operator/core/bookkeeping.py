"""The records of a look: what is metered, sealed, settled and corrected. Called by reconcile.

Records are written when they are opened, when a pod is bound (its price is copied then) or is gone
without an end, sealed and settled, and anew when an end is known better; in between they are
computed anew from the pods at each look, so that nothing is counted up and nothing can be counted
twice.
"""

from dataclasses import dataclass
from datetime import datetime

from finetune_api.ratecard import RateCard
from finetune_api.report import Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_api.usage import JobReference, UsageRecord
from finetune_operator.core.decision import (
    LAST_GRACE_SECONDS,
    Action,
    ForgetGang,
    StopGang,
    WriteRecord,
)
from finetune_operator.core.observed import Observed
from finetune_operator.core.settle import kept_share
from finetune_operator.core.situation import marks_of
from finetune_operator.cost.ledger import device_seconds, lost_device_seconds
from finetune_operator.cost.rates import find_rate
from finetune_operator.cost.records import (
    correct,
    latest,
    meter,
    open_record,
    says_more,
    seal,
    settle_lost,
)


@dataclass(frozen=True, kw_only=True)
class Books:
    """All records of the job as of now, and what is to be written or let go of."""

    records: tuple[UsageRecord, ...]
    actions: tuple[Action, ...] = ()


def keep_books(observed: Observed, status: JobStatus, now: datetime) -> Books:
    """Meter what runs, seal what has ended, settle what is lost, correct what is known better."""
    stored = {record.spec.attempt: record for record in latest(observed.records)}
    rows = {row.number: row for row in status.attempts}
    numbers = sorted({*rows, *(record.spec.attempt for record in observed.records)})
    cards = _cards(observed, now)
    records: list[UsageRecord] = []
    actions: list[Action] = []
    for number in numbers:
        row = rows.get(number)
        before = stored.get(number)
        if before is None and row is None:
            continue
        after = _metered(observed, cards, status, row, before, number, now)
        records.append(after)
        if before is not None and says_more(before, after):
            actions.append(WriteRecord(record=after))
        elif before is not None and before.spec.sealed:
            actions += _let_go(observed, before)
    return Books(records=tuple(records), actions=tuple(actions))


def _metered(
    observed: Observed,
    cards: tuple[RateCard, ...],
    status: JobStatus,
    row: AttemptStatus | None,
    before: UsageRecord | None,
    number: int,
    now: datetime,
) -> UsageRecord:
    if before is None:
        if row is None:
            raise ValueError(f"attempt {number} has neither a row nor a record")
        job = JobReference.of(observed.job.metadata)
        before = open_record(job, row.step, number, observed.engine.records_namespace)
    record = before
    pods = tuple(pod for pod in observed.pods if pod.attempt == number)
    stall = observed.job.spec.policy.stall_timeout_seconds
    if record.spec.sealed:
        record = correct(record, pods, cards, now, stall_seconds=stall)
    elif row is not None:
        marks = marks_of(observed, row)
        split = status.data.split_digest if status.data else None
        record = meter(record, pods, marks, cards, now, split_digest=split, stall_seconds=stall)
        if row.state == "Ended":
            record = seal(record, pods, marks, cards, now, stall_seconds=stall)
    if record.spec.sealed and not record.spec.lost_settled:
        kept = kept_share(row or _row_of(record), status)
        if kept is not None:
            record = settle_lost(record, kept)
    return record


def _row_of(record: UsageRecord) -> AttemptStatus:
    """The row of an attempt that has ended and is none of the newest, which the status shows."""
    spec = record.spec
    return AttemptStatus(number=spec.attempt, step=spec.step, state="Ended", marks=spec.marks)


def _let_go(observed: Observed, record: UsageRecord) -> tuple[Action, ...]:
    """Let the gang of a sealed record go, once nothing better can be heard of its pods.

    Those on a silent node are told to end before that: should the node come back, they would go on
    beside the attempt that has taken their place.
    """
    step, attempt = record.spec.step, record.spec.attempt
    own = [pod for pod in observed.pods if pod.attempt == attempt and pod.kept]
    unheard = [pod for pod in own if pod.live or pod.silent]
    if any(not pod.stopping for pod in unheard):
        stop = StopGang(
            step=step,
            attempt=attempt,
            grace_seconds=LAST_GRACE_SECONDS,
            reason="The attempt has ended without it.",
        )
        return (stop,)
    if own and not unheard:
        return (ForgetGang(step=step, attempt=attempt),)
    return ()


def with_use(status: JobStatus, records: tuple[UsageRecord, ...]) -> JobStatus:
    """The status with each attempt's device-seconds, from its record."""
    use = {
        record.spec.attempt: (device_seconds(record), lost_device_seconds(record))
        for record in records
    }
    attempts = tuple(
        row.model_copy(
            update={
                "device_seconds": use[row.number][0],
                "lost_device_seconds": use[row.number][1],
            }
        )
        if row.number in use
        else row
        for row in status.attempts
    )
    return status.model_copy(update={"attempts": attempts})


def currency_of(observed: Observed, records: tuple[UsageRecord, ...], now: datetime) -> str:
    """The one currency that the job is counted in: of what was priced, else of what will be.

    Where neither is known, of any rate card, or of the limit.
    """
    for record in records:
        for entry in record.spec.entries:
            if entry.rate is not None:
                return entry.rate.currency
    coming = (observed.engine.placements.get(step) for step in Step)
    for placement in (*coming, *(pod.placement for pod in observed.pods)):
        rate = find_rate(observed.rate_cards, placement, now) if placement is not None else None
        if rate is not None:
            return rate.currency
    for card in observed.rate_cards:
        return card.spec.currency
    return observed.job.spec.budget.currency


def _cards(observed: Observed, now: datetime) -> tuple[RateCard, ...]:
    """The rate cards that price the job's use: what can't be added up is no price of it.

    Should another currency come into effect while a gang runs, the price that it has goes on.
    """
    currency = currency_of(observed, observed.records, now)
    return tuple(card for card in observed.rate_cards if card.spec.currency == currency)
