"""The job's attempts on a line of time, and what each did and used. Called by ``render``."""

from dataclasses import dataclass
from datetime import datetime

from finetune_api.report import Step
from finetune_api.status import AttemptStatus
from finetune_api.times import parse_time
from finetune_api.usage import UsageRecord
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.facts import PageFacts

_COMPLETED = "Completed"


@dataclass(frozen=True)
class Attempt:
    """One attempt; ``start`` and ``width`` are percent of the whole time, None before it ran."""

    number: int
    step: str
    state: str
    went_well: bool
    reason: str
    message: str
    where: str
    from_time: str
    taken: str
    from_step: str
    to_step: str
    device_time: str
    lost: str
    cost: str
    start: float | None
    width: float | None


@dataclass(frozen=True)
class Attempts:
    """All attempts that the status still holds; ``earlier`` ones are in the records alone."""

    rows: tuple[Attempt, ...]
    earlier: int
    begin: str
    end: str


def attempts(facts: PageFacts) -> Attempts | None:
    """The section on attempts; None before the first."""
    rows = facts.status.attempts
    if not rows:
        return None
    moments = [parse_time(t) for a in rows for t in (a.start_time, a.end_time) if t is not None]
    begin, end = (min(moments), max(moments)) if moments else (None, None)
    records = {record.spec.attempt: record for record in facts.records}
    return Attempts(
        rows=tuple(_attempt(a, records.get(a.number), begin, end) for a in rows),
        earlier=max(0, rows[0].number - 1),
        begin=f"{begin:%H:%M:%S} UTC" if begin else figures.UNDEFINED,
        end=f"{end:%H:%M:%S} UTC" if end else figures.UNDEFINED,
    )


def _attempt(
    row: AttemptStatus, record: UsageRecord | None, begin: datetime | None, end: datetime | None
) -> Attempt:
    start, width = _place(row, begin, end)
    trained = row.step is Step.TRAIN and row.marks is not None
    return Attempt(
        number=row.number,
        step=row.step,
        state=row.state,
        went_well=row.state != "Ended" or row.reason == _COMPLETED,
        reason=row.reason or row.state,
        message=row.message or "",
        where=_where(row),
        from_time=figures.clock(row.start_time),
        taken=_taken(row),
        from_step=figures.count(row.marks.resumed_from_step) if trained and row.marks else "",
        to_step=figures.count(row.marks.last_step) if trained and row.marks else "",
        device_time=figures.seconds(row.device_seconds),
        lost=figures.seconds(row.lost_device_seconds) if row.lost_device_seconds else "",
        cost=_cost(record),
        start=start,
        width=width,
    )


def _place(
    row: AttemptStatus, begin: datetime | None, end: datetime | None
) -> tuple[float | None, float | None]:
    if row.start_time is None or begin is None or end is None or begin == end:
        return None, None
    whole = (end - begin).total_seconds()
    start = (parse_time(row.start_time) - begin).total_seconds()
    until = (parse_time(row.end_time) if row.end_time is not None else end) - begin
    return round(100 * start / whole, 3), round(100 * (until.total_seconds() - start) / whole, 3)


def _taken(row: AttemptStatus) -> str:
    if row.start_time is None or row.end_time is None:
        return figures.UNDEFINED
    return figures.seconds(figures.between(row.start_time, row.end_time).total_seconds())


def _where(row: AttemptStatus) -> str:
    rank = f"rank {row.rank}" if row.rank is not None else ""
    node = f"on {row.node}" if row.node is not None else ""
    return " ".join(part for part in (rank, node) if part)


def _cost(record: UsageRecord | None) -> str:
    """The record's own sum, in its entries' currency; unpriced where it has no rate at all."""
    if record is None or record.spec.cost is None:
        return figures.UNDEFINED
    currencies = {entry.rate.currency for entry in record.spec.entries if entry.rate is not None}
    if len(currencies) != 1:
        return "unpriced"
    return figures.money(record.spec.cost, currencies.pop())
