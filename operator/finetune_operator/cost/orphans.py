"""Use whose usual witness is gone: pods that nobody saw end, and jobs that were removed by force.

A pod carries our finalizer until it is recorded, and a job until its records are sealed; somebody
may take either away. ``vanished`` is asked by an engine at each look, ``close_books`` by whatever
sweeps up after jobs that are no more.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from itertools import groupby

from finetune_api.ratecard import RateCard
from finetune_api.report import ExitCode, Marks, Step
from finetune_api.usage import EndEvidence, JobReference, UsageRecord
from finetune_operator.cost.facts import End, PodUse, join_marks, recorded_use
from finetune_operator.cost.instants import instant, moment_of
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.records import (
    correct,
    kept_share,
    latest,
    meter,
    open_record,
    says_more,
    seal,
    settle_lost,
)


def vanished(
    record: UsageRecord,
    listed: Collection[str],
    now: datetime,
    *,
    last_seen_at: datetime | None = None,
) -> tuple[PodView, ...]:
    """Present the pods that an unsealed record knows and that are not ``listed`` any more.

    Each ended at its last proof of life, unconfirmed: what is recorded of it, or ``last_seen_at``
    where an engine saw the attempt's pods later than that. An end that stands in the record is
    told again as it is, so that the gang stays ended at every look. Add them to the look's pods.
    """
    spec = record.spec
    if spec.sealed:
        return ()
    seen = None if last_seen_at is None else min(instant(last_seen_at), instant(now))
    return tuple(
        _gone(spec.step, spec.attempt, use, seen)
        for use in _recorded_uses(record)
        if use.uid not in listed
    )


@dataclass(frozen=True, kw_only=True)
class Closing:
    """What is to be done about the use of a job that is gone, in this order."""

    records: tuple[UsageRecord, ...] = ()
    """To be made durable; those that are complete are sealed and settled."""
    free: frozenset[str] = frozenset()
    """Pods, by uid, that nothing is owed for once the records are written: their finalizer goes."""


def close_books(
    job: JobReference,
    records: Sequence[UsageRecord],
    pods: Sequence[PodView],
    cards: Sequence[RateCard],
    now: datetime,
    namespace: str,
) -> Closing:
    """Record what the pods of a job that is gone have held, and seal each attempt that has ended.

    ``records`` and ``pods`` are all of this job (by uid). No attempt comes after these, so work
    since the last checkpoint is lost. An attempt with a pod that may still hold devices is metered
    and waits, and a pod on a silent node is kept for what it may yet tell; asking again, later or
    after a crash, goes on from there.
    """
    stored = {record.spec.attempt: record for record in latest(records)}
    numbers = {record.spec.attempt for record in records} | {pod.attempt for pod in pods}
    due: list[UsageRecord] = []
    free: set[str] = set()
    for number in sorted(numbers):
        own = tuple(pod for pod in pods if pod.attempt == number)
        before = stored.get(number)
        record = before
        if record is None and any(pod.bound_at is not None for pod in own):
            record = open_record(job, own[0].step, number, namespace)
        if record is not None:
            record = _closed(record, own, cards, now)
            if before is None or says_more(before, record):
                due.append(record)
        if record is None or record.spec.sealed:
            free |= {pod.uid for pod in own if not (_may_hold(pod) or pod.silent)}
    return Closing(records=tuple(due), free=frozenset(free))


def _closed(
    record: UsageRecord, pods: tuple[PodView, ...], cards: Sequence[RateCard], now: datetime
) -> UsageRecord:
    """The record sealed and settled; metered, while a pod may hold something; or corrected."""
    if record.spec.sealed:
        record = correct(record, pods, cards, now)
    views = (*pods, *vanished(record, {pod.uid for pod in pods}, now))
    marks = None
    for told in _told(views):
        marks = join_marks(marks, told)
    if any(_may_hold(view) for view in views):
        return meter(record, views, marks, cards, now)
    sealed = seal(record, views, marks, cards, now)
    return settle_lost(sealed, _kept(sealed, views))


def _may_hold(pod: PodView) -> bool:
    """Whether it holds devices or may be given some: one that is gated can't, for nobody asks."""
    return pod.live and pod.released


def _told(pods: Sequence[PodView]) -> Iterator[Marks]:
    return (pod.termination.marks for pod in pods if pod.termination is not None)


def _kept(record: UsageRecord, pods: Sequence[PodView]) -> Fraction:
    if pods and all(pod.exit_code == ExitCode.DONE for pod in pods):
        return Fraction(1)
    marks = record.spec.marks
    if record.spec.step is not Step.TRAIN or marks is None:
        return Fraction(0)
    return kept_share(marks, marks.checkpoint_step or 0)


def _recorded_uses(record: UsageRecord) -> Iterator[PodUse]:
    for _, entries in groupby(record.spec.entries, key=lambda entry: entry.pod_uid):
        yield recorded_use(tuple(entries))


def _gone(step: Step, attempt: int, use: PodUse, seen: int | None) -> PodView:
    end = use.end or End(
        until=max(use.accrued, seen or use.accrued),
        evidence=EndEvidence.POD_GONE,
        confirmed=False,
    )
    return PodView(
        uid=use.uid,
        step=step,
        attempt=attempt,
        worker=use.worker,
        created_at=moment_of(use.since),
        released=True,
        bound_at=moment_of(use.since),
        started_at=None if use.started is None else moment_of(use.started),
        finished_at=moment_of(end.until),
        end_evidence=end.evidence,
        confirmed=end.confirmed,
        kept=False,
    )
