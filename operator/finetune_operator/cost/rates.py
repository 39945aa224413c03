"""Which price holds for a pod: the entries of rate cards that agree with where it is bound.

Asked by metering, which copies the price into the record, and by the policy that lets nothing
start without one under a money limit. A pod pays its accelerator's all-in rate, or its cores and
its memory, never both; a local run pays the entry that is named for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from finetune_api.ratecard import RateCard, RateEntry, RateResource
from finetune_api.usage import CopiedRate
from finetune_operator.cost.instants import instant, instant_of, moment_of
from finetune_operator.cost.money import exact_text, parse_decimal, parse_price
from finetune_operator.cost.pods import CPU_DEVICE, Placement

LOCAL_ENTRY = "local"
"""The entry that a local run is priced by."""
CPU_AND_MEMORY_ENTRY = "cpu+memory"
"""What a copied rate names where two entries make up the price."""

MILLISECONDS_PER_HOUR = 3_600_000

_BY_SIZE = (RateResource.CPU, RateResource.MEMORY)
_LONGEST_NAME = 253


@dataclass(frozen=True, kw_only=True)
class _Match:
    card: RateCard
    entry: RateEntry
    effective: int
    """Since when, in milliseconds since the epoch."""
    selectors: int

    def precedence(self) -> tuple[int, int, Fraction, str, str]:
        """The highest wins; card and entry only settle which of two equals is named."""
        price = parse_decimal(self.entry.price_per_hour)
        name = (self.card.metadata.name, self.entry.name)
        return (self.selectors, self.effective, price, *name)

    def rate(self) -> CopiedRate:
        return CopiedRate(
            card=self.card.metadata.name,
            entry=self.entry.name,
            price_per_hour=self.entry.price_per_hour,
            currency=self.card.spec.currency,
        )


def find_rate(cards: Sequence[RateCard], placement: Placement, at: datetime) -> CopiedRate | None:
    """Return the price of one device at a place and moment, or None where no entry agrees.

    Of several the one with the most selectors holds, then the one in effect since latest, then
    the dearer, so that an ambiguity never passes a limit. For a pod on processors of a cluster the
    device is the whole pod: its cores at one entry's price and its memory at another's, exactly.
    """
    return _rate_at(list(_matches(cards, placement)), placement, instant(at))


def missing_entries(
    cards: Sequence[RateCard], placement: Placement, at: datetime
) -> tuple[str, ...]:
    """Say what is lacking for a price at a place and moment; empty where there is one."""
    matches = list(_matches(cards, placement))
    if _rate_at(matches, placement, instant(at)) is not None:
        return ()
    if placement.local:
        return (f"named {LOCAL_ENTRY}",)
    where = _where(placement)
    if not _pays_by_size(placement):
        return (f"for gpuType {placement.device}{where}",)
    held = [match for match in matches if match.effective <= instant(at)]
    lacking = tuple(
        f"of resource {resource}{where}"
        for resource in _BY_SIZE
        if _highest(held, resource) is None
    )
    if lacking or not (placement.milli_cores and placement.memory_mebibytes):
        return lacking or ("for a pod that states no cores or no memory",)
    return (f"of resource cpu and one of resource memory in the same currency{where}",)


def rate_changes(
    cards: Sequence[RateCard], placement: Placement, since: datetime, until: datetime
) -> tuple[datetime, ...]:
    """Return the moments strictly between two others at which another price begins to hold."""
    matches = list(_matches(cards, placement))
    start, end = instant(since), instant(until)
    changes: list[int] = []
    current = _rate_at(matches, placement, start)
    for effective in sorted({match.effective for match in matches}):
        found = _rate_at(matches, placement, effective)
        if start < effective < end and found != current:
            changes.append(effective)
            current = found
    return tuple(moment_of(change) for change in changes)


def hourly_price(rate: CopiedRate, milli_devices: int) -> Fraction:
    """Money per hour of so many thousandths of devices."""
    return parse_price(rate.price_per_hour) * Fraction(milli_devices, 1000)


def price_of(rate: CopiedRate, milli_devices: int, milliseconds: int) -> Fraction:
    """Money for so many thousandths of devices over so many milliseconds, exactly."""
    return hourly_price(rate, milli_devices) * Fraction(milliseconds, MILLISECONDS_PER_HOUR)


def _rate_at(matches: Sequence[_Match], placement: Placement, at: int) -> CopiedRate | None:
    held = [match for match in matches if match.effective <= at]
    if _pays_by_size(placement):
        cpu, memory = (_highest(held, resource) for resource in _BY_SIZE)
        return _rate_by_size(cpu, memory, placement) if cpu and memory else None
    return max(held, key=_Match.precedence).rate() if held else None


def _highest(matches: Sequence[_Match], resource: RateResource) -> _Match | None:
    own = [match for match in matches if match.entry.resource is resource]
    return max(own, key=_Match.precedence, default=None)


def _rate_by_size(cpu: _Match, memory: _Match, placement: Placement) -> CopiedRate | None:
    """Price a pod by its cores and memory; nothing where a size is unknown, or no sum exists."""
    currency = cpu.card.spec.currency
    if memory.card.spec.currency != currency:
        return None
    if not placement.milli_cores or not placement.memory_mebibytes:
        return None
    cores = Fraction(placement.milli_cores, 1000)
    gibibytes = Fraction(placement.memory_mebibytes, 1024)
    core_price, gibibyte_price = cpu.entry.price_per_hour, memory.entry.price_per_hour
    price = cores * parse_decimal(core_price) + gibibytes * parse_decimal(gibibyte_price)
    cards = dict.fromkeys((cpu.card.metadata.name, memory.card.metadata.name))
    return CopiedRate(
        card="+".join(cards)[:_LONGEST_NAME],
        entry=CPU_AND_MEMORY_ENTRY,
        price_per_hour=exact_text(price),
        currency=currency,
        basis=f"{exact_text(cores)} cores × {core_price} + "
        f"{exact_text(gibibytes)} GiB × {gibibyte_price}",
    )


def _matches(cards: Sequence[RateCard], placement: Placement) -> Iterator[_Match]:
    for card in cards:
        for entry in card.spec.entries:
            selectors = _agreement(entry, placement)
            if selectors is not None:
                effective = instant_of(entry.effective_from)
                yield _Match(card=card, entry=entry, effective=effective, selectors=selectors)


def _agreement(entry: RateEntry, placement: Placement) -> int | None:
    """How many selectors an entry sets, if all of them agree with the place; otherwise None."""
    if placement.local:
        return 0 if entry.name == LOCAL_ENTRY else None
    if _pays_by_size(placement):
        if entry.resource not in _BY_SIZE:
            return None
    elif entry.resource is not RateResource.ACCELERATOR or entry.gpu_type != placement.device:
        return None
    pairs = (
        (entry.provider, placement.provider),
        (entry.region, placement.region),
        (entry.capacity_type, placement.capacity_type),
    )
    wanted = [(want, have) for want, have in pairs if want is not None]
    return len(wanted) if all(want == have for want, have in wanted) else None


def _pays_by_size(placement: Placement) -> bool:
    return placement.device == CPU_DEVICE and not placement.local


def _where(placement: Placement) -> str:
    told = {
        "provider": placement.provider,
        "region": placement.region,
        "capacityType": placement.capacity_type,
    }
    return "".join(f", {name} {value}" for name, value in told.items() if value is not None)
