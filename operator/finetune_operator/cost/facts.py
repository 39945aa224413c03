"""What is known of the devices that a pod held, joined from its record and a look.

Each fact is joined by a rule that does not ask which came first: the earliest start, the best
evidence of an end, the farthest mark. So looks may be repeated, lost or come out of order, and
the record is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from finetune_api.report import Marks
from finetune_api.usage import CopiedRate, EndEvidence, UsageEntry
from finetune_operator.cost.instants import instant, instant_of, wire
from finetune_operator.cost.pods import PodView

_BEST_FIRST = tuple(EndEvidence)


@dataclass(frozen=True)
class Priced:
    """A stretch of time at one price; milliseconds since the epoch."""

    start: int
    end: int
    rate: CopiedRate | None


@dataclass(frozen=True, kw_only=True)
class End:
    """When a pod held nothing any more, and how that is known."""

    until: int
    evidence: EndEvidence | None
    confirmed: bool


@dataclass(frozen=True, kw_only=True)
class PodUse:
    """One pod's use; moments in milliseconds since the epoch."""

    uid: str
    worker: int
    node: str
    device: str
    milli_devices: int
    fake_gpu: bool
    since: int
    started: int | None
    end: End | None
    accrued: int
    """Up to when its time is counted: its end, or the newest look."""
    alive: bool
    """Whether a pod without an end was within reach in the newest look."""
    priced: tuple[Priced, ...] = ()
    """Prices that were copied already."""


def counted_until(entry: UsageEntry) -> int:
    """Up to when an entry's time is counted: its end, or the newest look."""
    if entry.until is not None:
        return instant_of(entry.until)
    return instant_of(entry.since) + sum(share.milliseconds for share in entry.classes)


def recorded_use(entries: Sequence[UsageEntry]) -> PodUse:
    """Read the entries of one pod back; they are in the order of their segments."""
    first, last = entries[0], entries[-1]
    priced = tuple(
        Priced(instant_of(entry.since), counted_until(entry), entry.rate) for entry in entries
    )
    end = None
    if last.until is not None:
        end = End(
            until=instant_of(last.until), evidence=last.end_evidence, confirmed=last.confirmed
        )
    return PodUse(
        uid=first.pod_uid,
        worker=first.worker,
        node=first.node,
        device=first.device,
        milli_devices=first.milli_devices,
        fake_gpu=first.fake_gpu,
        since=instant_of(first.since),
        started=instant_of(first.started_at) if first.started_at else None,
        end=end,
        accrued=priced[-1].end,
        alive=last.confirmed,
        priced=priced,
    )


def seen_use(pod: PodView, now: int, recorded: PodUse | None = None) -> PodUse | None:
    """Take a pod's facts from a look; None while it holds nothing, or nobody knows where.

    Of a pod that is recorded it is known, although the look may not tell any more.
    """
    place = pod.placement or recorded
    if pod.bound_at is None or place is None:
        return None
    since = instant(pod.bound_at)
    end = None
    if pod.finished_at is not None:
        until = max(since, instant(pod.finished_at))
        end = End(until=until, evidence=pod.end_evidence, confirmed=pod.confirmed)
    return PodUse(
        uid=pod.uid,
        worker=pod.worker,
        node=place.node,
        device=place.device,
        milli_devices=place.milli_devices,
        fake_gpu=place.fake_gpu,
        since=since,
        started=instant(pod.started_at) if pod.started_at else None,
        end=end,
        accrued=end.until if end else max(since, now),
        alive=pod.confirmed,
    )


def join_uses(recorded: PodUse, seen: PodUse) -> PodUse:
    """Join what is recorded of a pod with what a look saw of it; identity is the record's."""
    end = _join_ends(recorded.end, seen.end)
    alive = {
        -1: seen.alive,
        0: recorded.alive and seen.alive,
        1: recorded.alive,
    }[(recorded.accrued > seen.accrued) - (recorded.accrued < seen.accrued)]
    return replace(
        recorded,
        since=min(recorded.since, seen.since),
        started=_join(min, recorded.started, seen.started),
        end=end,
        accrued=end.until if end else max(recorded.accrued, seen.accrued),
        alive=alive,
    )


def join_marks(known: Marks | None, told: Marks | None) -> Marks | None:
    """Join what rank 0 told at two times: the earliest beginnings, the farthest of the rest.

    Marks that say nothing are as none.
    """
    one, other = known or Marks(), told or Marks()
    joined = Marks(
        started_at=_join_told(min, one.started_at, other.started_at),
        first_step_at=_join_told(min, one.first_step_at, other.first_step_at),
        last_step_at=_join_told(max, one.last_step_at, other.last_step_at),
        resumed_from_step=max(one.resumed_from_step, other.resumed_from_step),
        resumed_from_attempt=_join(max, one.resumed_from_attempt, other.resumed_from_attempt),
        last_step=max(one.last_step, other.last_step),
        checkpoint_step=_join(max, one.checkpoint_step, other.checkpoint_step),
        checkpoint_at=_join_told(max, one.checkpoint_at, other.checkpoint_at),
        checkpoint_milliseconds=max(one.checkpoint_milliseconds, other.checkpoint_milliseconds),
        evaluation_milliseconds=max(one.evaluation_milliseconds, other.evaluation_milliseconds),
    )
    return None if joined == Marks() else joined


def _join_ends(recorded: End | None, seen: End | None) -> End | None:
    """An end stands against none, a confirmed one against all; else the best evidence, latest."""
    if recorded is None or seen is None:
        return recorded or seen
    if recorded.confirmed or seen.confirmed:
        return recorded if recorded.confirmed else seen
    return max(recorded, seen, key=_evidence)


def _evidence(end: End) -> tuple[int, int]:
    rank = _BEST_FIRST.index(end.evidence) if end.evidence else len(_BEST_FIRST)
    return (-rank, end.until)


def _join(choose: Callable[[int, int], int], one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)


def _join_told(choose: Callable[[int, int], int], one: str | None, other: str | None) -> str | None:
    moments = [instant_of(text) for text in (one, other) if text is not None]
    return wire(reduce(choose, moments)) if moments else None
