"""The ledger: what a set of records adds up to. Nothing is ever counted up beside it.

Called by the core on every look with all records of a job, and by the metrics with those of all.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

from finetune_api.status import ClassShare, CostStatus
from finetune_api.usage import WASTED, TimeClass, UsageEntry, UsageRecord
from finetune_operator.cost.facts import counted_until
from finetune_operator.cost.instants import instant
from finetune_operator.cost.money import CurrencyMismatchError, Money, amount_text, display
from finetune_operator.cost.pods import CPU_DEVICE
from finetune_operator.cost.rates import MILLISECONDS_PER_HOUR, hourly_price, price_of
from finetune_operator.cost.records import latest


class LedgerError(ValueError):
    """Records contradict each other: the same time of a pod stands in them twice."""


class ClassTotal(NamedTuple):
    """Use of one class: device-milliseconds, and their exact price where there is one."""

    milliseconds: Fraction
    cost: Fraction


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over records. Times are device-milliseconds: half a device for 2 ms is 1."""

    spent: Money
    wasted: Money
    gpu_milliseconds: Fraction
    rank_milliseconds: Fraction
    """Of ranks on processors."""
    unpriced_milliseconds: Fraction
    """Of either, without a rate."""
    by_class: Mapping[TimeClass, ClassTotal]
    """Every class that took time, in the order of ``TimeClass``."""
    fake_gpu: bool


def totals(records: Sequence[UsageRecord], currency: str, now: datetime) -> Totals:
    """Sum records in one currency; of an attempt's, the one that counts (`latest`).

    What is open is counted up to ``now``, as of an unknown class since it was last metered.

    Raises LedgerError where a pod's time stands in the records twice, and CurrencyMismatchError
    where a price is in another currency.
    """
    _refuse_doubles(records)
    entries = [entry for record in latest(records) for entry in record.spec.entries]
    _refuse_other_currencies(entries, currency)
    parts = [part for entry in entries for part in _parts(entry, instant(now))]
    by_class = {
        name: ClassTotal(
            _sum(part.devices for part in parts if part.name is name),
            _sum(part.cost for part in parts if part.name is name and part.cost is not None),
        )
        for name in TimeClass
        if any(part.name is name for part in parts)
    }
    return Totals(
        spent=Money(_sum(total.cost for total in by_class.values()), currency),
        wasted=Money(_sum(by_class[name].cost for name in by_class if name in WASTED), currency),
        gpu_milliseconds=_sum(part.devices for part in parts if not part.on_cpu),
        rank_milliseconds=_sum(part.devices for part in parts if part.on_cpu),
        unpriced_milliseconds=_sum(part.devices for part in parts if part.cost is None),
        by_class=by_class,
        fake_gpu=any(entry.fake_gpu for entry in entries),
    )


class UseKey(NamedTuple):
    """What use is summed by where no single job is meant."""

    device: str
    fake_gpu: bool
    time_class: TimeClass
    currency: str
    """Empty where there is no price."""


def use_by_device(records: Iterable[UsageRecord], now: datetime) -> Mapping[UseKey, ClassTotal]:
    """Sum records of any number of jobs; what is open is counted up to ``now``, as in `totals`."""
    sums: dict[UseKey, ClassTotal] = {}
    for entry in (entry for record in latest(records) for entry in record.spec.entries):
        currency = entry.rate.currency if entry.rate else ""
        for part in _parts(entry, instant(now)):
            key = UseKey(entry.device, entry.fake_gpu, part.name, currency)
            milliseconds, cost = sums.get(key, (Fraction(), Fraction()))
            sums[key] = ClassTotal(milliseconds + part.devices, cost + (part.cost or 0))
    return sums


def burn_rate(records: Sequence[UsageRecord], currency: str) -> Money:
    """Money per hour of all that is held now and has a price.

    Raises CurrencyMismatchError where a price is in another currency.
    """
    open_entries = (entry for record in latest(records) for entry in record.spec.entries)
    entries = [entry for entry in open_entries if entry.until is None]
    _refuse_other_currencies(entries, currency)
    prices = (hourly_price(e.rate, e.milli_devices) for e in entries if e.rate is not None)
    return Money(_sum(prices), currency)


def cost_status(
    sums: Totals, projected: Fraction | None = None, projected_p90: Fraction | None = None
) -> CostStatus:
    """Round sums once, for the status. Projections are money at completion, spent included."""
    return CostStatus(
        currency=sums.spent.currency,
        spent=amount_text(sums.spent.amount),
        projected=None if projected is None else amount_text(projected),
        projected_p90=None if projected_p90 is None else amount_text(projected_p90),
        wasted=amount_text(sums.wasted.amount),
        gpu_hours=_hours(sums.gpu_milliseconds),
        rank_hours=_hours(sums.rank_milliseconds),
        unpriced_hours=_hours(sums.unpriced_milliseconds),
        display=_display(sums),
        fake_gpu=sums.fake_gpu,
        classes=tuple(
            ClassShare(
                name=name,
                device_seconds=amount_text(total.milliseconds / 1000),
                cost=amount_text(total.cost),
            )
            for name, total in sums.by_class.items()
        ),
    )


def device_seconds(record: UsageRecord) -> int:
    """Device-seconds of a record as far as it is metered, rounded once."""
    return _device_seconds(record, frozenset(TimeClass))


def lost_device_seconds(record: UsageRecord) -> int:
    """Device-seconds of a record whose work was not kept, rounded once; 0 until it is settled."""
    return _device_seconds(record, frozenset({TimeClass.LOST}))


class _Part(NamedTuple):
    name: TimeClass
    devices: Fraction
    cost: Fraction | None
    on_cpu: bool


def _parts(entry: UsageEntry, now: int) -> list[_Part]:
    lengths = [(share.name, share.milliseconds) for share in entry.classes]
    if entry.until is None:
        lengths.append((TimeClass.UNKNOWN, max(0, now - counted_until(entry))))
    return [
        _Part(
            name=name,
            devices=Fraction(entry.milli_devices * length, 1000),
            cost=price_of(entry.rate, entry.milli_devices, length) if entry.rate else None,
            on_cpu=entry.device == CPU_DEVICE,
        )
        for name, length in lengths
        if length
    ]


def _refuse_doubles(records: Sequence[UsageRecord]) -> None:
    owners: dict[str, str] = {}
    for record in latest(records):
        keys = [(entry.pod_uid, entry.segment) for entry in record.spec.entries]
        name = record.metadata.name
        for uid in {uid for uid, _ in keys}:
            other = owners.setdefault(uid, name)
            if other != name:
                raise LedgerError(
                    f"pod {uid} stands in record {other} and in record {name}: its time would be "
                    "paid twice; remove it from the record of the attempt that it was not part of"
                )
        if len(set(keys)) < len(keys):
            raise LedgerError(f"record {name} has two entries of one pod and segment")
    if len({record.metadata.name for record in records}) < len(records):
        raise LedgerError("a record was given twice; sum each one once")


def _refuse_other_currencies(entries: Sequence[UsageEntry], currency: str) -> None:
    for entry in entries:
        if entry.rate is not None and entry.rate.currency != currency:
            raise CurrencyMismatchError(
                f"pod {entry.pod_uid} is priced in {entry.rate.currency} (rate card "
                f"{entry.rate.card}), but the sum is in {currency}: state limits and rates in one "
                "currency"
            )


def _device_seconds(record: UsageRecord, names: frozenset[TimeClass]) -> int:
    units = sum(
        entry.milli_devices * share.milliseconds
        for entry in record.spec.entries
        for share in entry.classes
        if share.name in names
    )
    return round(Fraction(units, 1_000_000))


def _display(sums: Totals) -> str:
    """At most 40 characters: money, and whether that is all of it and of a real device."""
    unpriced = sums.unpriced_milliseconds > 0
    used = sums.gpu_milliseconds + sums.rank_milliseconds
    if unpriced and sums.unpriced_milliseconds == used:
        text = "unpriced"
    else:
        text = display(sums.spent) + (" + unpriced" if unpriced else "")
    return f"{text} (fake)" if sums.fake_gpu else text


def _hours(milliseconds: Fraction) -> str:
    return amount_text(milliseconds / MILLISECONDS_PER_HOUR)


def _sum(amounts: Iterable[Fraction]) -> Fraction:
    return sum(amounts, start=Fraction(0))
