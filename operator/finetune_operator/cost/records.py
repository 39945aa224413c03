"""A usage record's life: opened before its pods may run, metered, sealed, and settled.

Called by the core on every look; an engine makes the result durable. All of it is pure, and doing
any of it again changes nothing.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from itertools import groupby

from finetune_api.metadata import ObjectMeta
from finetune_api.ratecard import RateCard
from finetune_api.report import Marks, Step
from finetune_api.usage import (
    MOST_ENTRIES,
    CopiedRate,
    EndEvidence,
    JobReference,
    TimeClass,
    TimeShare,
    UsageEntry,
    UsageRecord,
    UsageRecordSpec,
)
from finetune_operator.cost.facts import (
    PodUse,
    Priced,
    join_marks,
    join_uses,
    recorded_use,
    seen_use,
)
from finetune_operator.cost.instants import instant, wire
from finetune_operator.cost.metering import Held, shares, timeline
from finetune_operator.cost.money import amount_text
from finetune_operator.cost.pods import Placement, PodView
from finetune_operator.cost.rates import price_of
from finetune_operator.cost.segments import copied_segments, price_segments

JOB_UID_LABEL = "finetune.dev/job-uid"
"""A job's records are selected by its uid; a namesake's have another."""

_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


class RecordError(ValueError):
    """What was asked of a usage record would make it untrue."""


def record_name(job_uid: str, attempt: int, revision: int = 0) -> str:
    """Name a record: attempts never repeat within a job, uids never within a cluster."""
    name = f"{job_uid}-{attempt}" + (f"-r{revision}" if revision else "")
    if _DNS_1123.fullmatch(name) is None or len(job_uid) > 63:
        raise RecordError(
            f"job uid {job_uid!r} can't name a record: it must be 1 to 63 of a-z, 0-9 and '-', "
            "and begin with a letter or digit"
        )
    return name


def open_record(job: JobReference, step: Step, attempt: int, namespace: str) -> UsageRecord:
    """Open the record of an attempt; it is written before the attempt's pods may run.

    ``namespace`` is where records are kept; they outlive the job and its own.
    """
    return UsageRecord(
        metadata=ObjectMeta(
            name=record_name(job.uid, attempt),
            namespace=namespace,
            labels={JOB_UID_LABEL: job.uid},
        ),
        spec=UsageRecordSpec(job=job, step=step, attempt=attempt),
    )


def meter(
    record: UsageRecord,
    pods: Sequence[PodView],
    marks: Marks | None,
    cards: Sequence[RateCard],
    now: datetime,
    split_digest: str | None = None,
    *,
    stall_seconds: int | None = None,
) -> UsageRecord:
    """Join a look into a record: the attempt's pods, what rank 0 told, and the prices.

    Pods of other attempts are passed over; pods that the look lacks stay as they are recorded.
    A pod that lives has an entry without ``until`` whose classes reach to ``now``. The result does
    not depend on the order of looks or on repeating them. A sealed record is returned unchanged.

    ``stall_seconds`` is the job's stall limit: silence for longer was no work.
    """
    spec = record.spec
    if spec.sealed:
        return record
    own = [pod for pod in pods if pod.attempt == spec.attempt and pod.step is spec.step]
    uses = {
        uid: recorded_use(tuple(entries))
        for uid, entries in groupby(spec.entries, key=lambda entry: entry.pod_uid)
    }
    for pod in own:
        recorded = uses.get(pod.uid)
        seen = seen_use(pod, instant(now), recorded)
        if seen is not None:
            uses[pod.uid] = join_uses(recorded, seen) if recorded is not None else seen
    starts = [use.started for use in uses.values()]
    starts += [None for pod in own if pod.uid not in uses]
    places = {pod.uid: pod.placement for pod in own}
    joined = join_marks(spec.marks, marks)
    stall = None if stall_seconds is None else stall_seconds * 1000
    priced = [
        (use, _priced(use, places.get(use.uid), cards, MOST_ENTRIES // len(uses)))
        for use in sorted(uses.values(), key=lambda use: (use.worker, use.uid))
    ]
    entries = [
        entry
        for use, segments in priced
        for entry in _entries(use, segments, spec.step, starts, joined, stall)
    ]
    return _with_spec(
        record,
        entries=tuple(entries),
        marks=joined,
        split_digest=spec.split_digest or split_digest,
    )


def seal(
    record: UsageRecord,
    pods: Sequence[PodView],
    marks: Marks | None,
    cards: Sequence[RateCard],
    now: datetime,
    *,
    stall_seconds: int | None = None,
) -> UsageRecord:
    """Meter an ended attempt for the last time and state its cost; intervals are final then.

    The cost stays unset where no entry has a price, or where they are in several currencies.
    Raises RecordError while a pod of it may still hold devices.
    """
    metered = meter(record, pods, marks, cards, now, stall_seconds=stall_seconds)
    if metered.spec.sealed:
        return metered
    entries = metered.spec.entries
    held = {entry.pod_uid for entry in entries}
    open_uids = {entry.pod_uid for entry in entries if entry.until is None}
    open_uids |= {
        pod.uid
        for pod in pods
        if pod.attempt == record.spec.attempt and pod.bound_at is not None and pod.uid not in held
    }
    if open_uids:
        raise RecordError(
            f"record {record.metadata.name} can't be sealed: the end or the place of pod "
            f"{', '.join(sorted(open_uids))} is not known yet; meter again once it is"
        )
    return _with_spec(metered, sealed=True, cost=_cost_text(entries))


def correct(
    record: UsageRecord,
    pods: Sequence[PodView],
    cards: Sequence[RateCard],
    now: datetime,
    *,
    stall_seconds: int | None = None,
) -> UsageRecord:
    """Write a sealed record anew, as its next revision, where an end is known better by now.

    That is so when a node was silent, its pods were taken to have ended, and it came back and told
    when their containers did. Of productive time the same share is lost as before. A record that
    nothing better is known of is returned unchanged, as is one that is not sealed.
    """
    spec = record.spec
    unsure = {entry.pod_uid for entry in spec.entries if not entry.confirmed}
    told = [pod for pod in pods if pod.uid in unsure and not pod.live and pod.confirmed]
    if not spec.sealed or not told:
        return record
    revision = spec.revision + 1
    name = record_name(spec.job.uid, spec.attempt, revision)
    before = record.metadata
    metadata = ObjectMeta(name=name, namespace=before.namespace, labels=before.labels)
    reopened = _with_spec(
        record.model_copy(update={"metadata": metadata}),
        revision=revision,
        sealed=False,
        lost_settled=False,
        cost=None,
    )
    sealed = seal(reopened, told, None, cards, now, stall_seconds=stall_seconds)
    return settle_lost(sealed, _kept_of(record)) if spec.lost_settled else sealed


def latest(records: Iterable[UsageRecord]) -> tuple[UsageRecord, ...]:
    """Each attempt's record that counts: the one of its highest revision."""
    newest: dict[tuple[str, int], UsageRecord] = {}
    for record in records:
        key = (record.spec.job.uid, record.spec.attempt)
        known = newest.get(key)
        if known is None or known.spec.revision < record.spec.revision:
            newest[key] = record
    return tuple(newest.values())


def says_more(before: UsageRecord, after: UsageRecord) -> bool:
    """Whether a record is due to be written: what it says now could not be found out later.

    It is sealed or settled anew, a pod was bound (its price is copied then), or one is gone without
    an end. What only grows with time is computed anew from the pods.
    """
    if after.spec.sealed:
        return after != before
    return _lasting(after) != _lasting(before)


def kept_share(marks: Marks, resumed_from: int) -> Fraction:
    """The share of a training attempt's steps that were kept, if the next one began there."""
    done = marks.last_step - marks.resumed_from_step
    if done <= 0:
        return Fraction(0)
    return Fraction(min(max(resumed_from - marks.resumed_from_step, 0), done), done)


def settle_lost(record: UsageRecord, kept: Fraction) -> UsageRecord:
    """Move the productive time whose work was not kept to ``lost``, and make the record final.

    ``kept`` is the share of the attempt's steps that a later one did not have to do again, 0 to 1;
    time is taken as even over steps. A settled record is returned unchanged. Raises RecordError
    for one that is not sealed.
    """
    spec = record.spec
    if spec.lost_settled:
        return record
    if not spec.sealed:
        raise RecordError(f"record {record.metadata.name} is settled only once it is sealed")
    lost = 1 - min(max(kept, Fraction(0)), Fraction(1))
    entries = tuple(
        entry.model_copy(update={"classes": _with_lost(entry.classes, lost)})
        for entry in spec.entries
    )
    return _with_spec(record, entries=entries, lost_settled=True)


def _lasting(record: UsageRecord) -> list[tuple[str, int, str, CopiedRate | None, str | None]]:
    return [
        (
            entry.pod_uid,
            entry.segment,
            entry.since,
            entry.rate,
            entry.until if entry.end_evidence is EndEvidence.POD_GONE else None,
        )
        for entry in record.spec.entries
    ]


def _priced(
    use: PodUse, placement: Placement | None, cards: Sequence[RateCard], most: int
) -> tuple[Priced, ...]:
    """A pod's time by its prices; past the most that a record has room for, the last goes on."""
    segments = copied_segments(use) if placement is None else price_segments(use, placement, cards)
    *first, last = segments[:most]
    return (*first, replace(last, end=segments[-1].end))


def _entries(
    use: PodUse,
    segments: Sequence[Priced],
    step: Step,
    gang_starts: Sequence[int | None],
    marks: Marks | None,
    stall_after: int | None,
) -> Iterable[UsageEntry]:
    held = Held(
        step=step,
        since=use.since,
        started=use.started,
        until=use.accrued,
        ended=use.end is not None,
    )
    spans = timeline(held, gang_starts, marks, stall_after)
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        alive = use.alive if use.end is None else use.end.confirmed
        yield UsageEntry(
            pod_uid=use.uid,
            segment=number,
            worker=use.worker,
            node=use.node,
            device=use.device,
            milli_devices=use.milli_devices,
            since=wire(segment.start),
            started_at=None if use.started is None else wire(use.started),
            until=wire(segment.end) if use.end is not None or not last else None,
            end_evidence=use.end.evidence if use.end is not None and last else None,
            confirmed=alive if last else True,
            classes=shares(spans, segment.start, segment.end),
            rate=segment.rate,
            fake_gpu=use.fake_gpu,
        )


def _cost_text(entries: Sequence[UsageEntry]) -> str | None:
    costs = [
        price_of(entry.rate, entry.milli_devices, sum(s.milliseconds for s in entry.classes))
        for entry in entries
        if entry.rate is not None
    ]
    currencies = {entry.rate.currency for entry in entries if entry.rate is not None}
    if len(currencies) > 1 or (entries and not costs):
        return None
    return amount_text(sum(costs, start=Fraction(0)))


def _kept_of(record: UsageRecord) -> Fraction:
    """The share of a settled record's productive time that was kept."""
    totals = dict.fromkeys(TimeClass, 0)
    for entry in record.spec.entries:
        for share in entry.classes:
            totals[share.name] += share.milliseconds
    done = totals[TimeClass.PRODUCTIVE] + totals[TimeClass.LOST]
    return Fraction(totals[TimeClass.PRODUCTIVE], done) if done else Fraction(1)


def _with_lost(classes: Sequence[TimeShare], share: Fraction) -> tuple[TimeShare, ...]:
    totals = dict.fromkeys(TimeClass, 0) | {part.name: part.milliseconds for part in classes}
    lost = round(totals[TimeClass.PRODUCTIVE] * share)
    totals[TimeClass.PRODUCTIVE] -= lost
    totals[TimeClass.LOST] += lost
    return tuple(TimeShare(name=name, milliseconds=ms) for name, ms in totals.items() if ms)


def _with_spec(record: UsageRecord, **update: object) -> UsageRecord:
    return record.model_copy(update={"spec": record.spec.model_copy(update=update)})
