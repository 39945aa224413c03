"""Cutting a pod's time where its price changes, and keeping the prices that were copied.

A price that stands in a record stays for the time that it was copied for, and goes on until
another one comes into effect: nobody re-prices what has already run by editing a rate card.
"""

from collections.abc import Sequence
from itertools import pairwise

from finetune_api.ratecard import RateCard
from finetune_api.usage import CopiedRate
from finetune_operator.cost.facts import PodUse, Priced
from finetune_operator.cost.instants import instant, moment_of
from finetune_operator.cost.pods import Placement
from finetune_operator.cost.rates import find_rate, rate_changes


def copied_segments(use: PodUse) -> tuple[Priced, ...]:
    """The stretches as they were copied, up to where the time is counted: the last price goes on.

    For a pod of which nobody can say any more where it is bound.
    """
    first, *later = use.priced
    starts = [use.since, *(piece.start for piece in later if piece.start < use.accrued)]
    ends = [*starts[1:], use.accrued]
    rates = [piece.rate for piece in (first, *later)]
    return tuple(
        Priced(start, end, rate)
        for start, end, rate in zip(starts, ends, rates[: len(starts)], strict=True)
    )


def price_segments(
    use: PodUse, placement: Placement, cards: Sequence[RateCard]
) -> tuple[Priced, ...]:
    """Divide ``[since, accrued)`` into stretches of one price each; at least one, in order."""
    start, end = use.since, use.accrued
    changes = [
        instant(change)
        for change in rate_changes(cards, placement, moment_of(start), moment_of(end))
    ]
    copied = [piece for piece in use.priced if piece.rate is not None]
    edges = {start, *changes}
    for piece in copied:
        edges |= {edge for edge in (piece.start, piece.end) if start < edge < end}
    newest = use.priced[-1] if use.priced and use.priced[-1].rate is not None else None

    def rate_from(edge: int) -> CopiedRate | None:
        for piece in copied:
            if piece.start <= edge < piece.end:
                return piece.rate
        if newest and newest.end <= edge and not any(newest.end <= c <= edge for c in changes):
            return newest.rate
        return find_rate(cards, placement, moment_of(edge))

    segments: list[Priced] = []
    for edge, following in pairwise([*sorted(edges), end]):
        rate = rate_from(edge)
        if segments and segments[-1].rate == rate:
            segments[-1] = Priced(segments[-1].start, following, rate)
        else:
            segments.append(Priced(edge, following, rate))
    return tuple(segments)
