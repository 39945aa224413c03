"""Which price holds for a pod: the entry of a rate card that agrees with where it is bound.

Asked by metering, which copies the price into the record, and by the policy that lets nothing
start without one under a money limit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from finetune_api.ratecard import RateCard, RateEntry, RateResource
from finetune_api.usage import CopiedRate
from finetune_operator.cost.instants import instant, instant_of, moment_of
from finetune_operator.cost.money import parse_decimal
from finetune_operator.cost.pods import Placement

LOCAL_ENTRY = "local"
"""The entry that a local run is priced by."""

MILLISECONDS_PER_HOUR = 3_600_000


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
    the dearer, so that an ambiguity never passes a limit.
    """
    return _rate_at(list(_matches(cards, placement)), instant(at))


def rate_changes(
    cards: Sequence[RateCard], placement: Placement, since: datetime, until: datetime
) -> tuple[datetime, ...]:
    """Return the moments strictly between two others at which another price begins to hold."""
    matches = list(_matches(cards, placement))
    start, end = instant(since), instant(until)
    changes: list[int] = []
    current = _rate_at(matches, start)
    for effective in sorted({match.effective for match in matches}):
        found = _rate_at(matches, effective)
        if start < effective < end and found != current:
            changes.append(effective)
            current = found
    return tuple(moment_of(change) for change in changes)


def hourly_price(rate: CopiedRate, milli_devices: int) -> Fraction:
    """Money per hour of so many thousandths of devices."""
    return parse_decimal(rate.price_per_hour) * Fraction(milli_devices, 1000)


def price_of(rate: CopiedRate, milli_devices: int, milliseconds: int) -> Fraction:
    """Money for so many thousandths of devices over so many milliseconds, exactly."""
    return hourly_price(rate, milli_devices) * Fraction(milliseconds, MILLISECONDS_PER_HOUR)


def _rate_at(matches: Sequence[_Match], at: int) -> CopiedRate | None:
    held = [match for match in matches if match.effective <= at]
    return max(held, key=_Match.precedence).rate() if held else None


def _matches(cards: Sequence[RateCard], placement: Placement) -> Iterator[_Match]:
    for card in cards:
        for entry in card.spec.entries:
            selectors = _agreement(entry, placement)
            if selectors is not None:
                effective = instant_of(entry.effective_from)
                yield _Match(card=card, entry=entry, effective=effective, selectors=selectors)


def _agreement(entry: RateEntry, placement: Placement) -> int | None:
    """How many selectors an entry sets, if all of them agree with the place; otherwise None.

    A place states no cores and no memory, so an entry that prices those never agrees.
    """
    if placement.local:
        return 0 if entry.name == LOCAL_ENTRY else None
    if entry.resource is not RateResource.ACCELERATOR or entry.gpu_type != placement.device:
        return None
    pairs = (
        (entry.provider, placement.provider),
        (entry.region, placement.region),
        (entry.capacity_type, placement.capacity_type),
    )
    wanted = [(want, have) for want, have in pairs if want is not None]
    return len(wanted) if all(want == have for want, have in wanted) else None
