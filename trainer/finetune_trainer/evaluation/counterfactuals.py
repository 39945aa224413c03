"""Does the answer change where a term is swapped that should not matter? Pure.

Two kinds of twins of a row are compared: with the terms of a swap exchanged, and with neutral ones
exchanged, which is the control. ``twins`` asks the model about them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.counterfactuals import NEUTRAL
from finetune_api.evaluationreport import CounterfactualsReport, Interval, SwapScores
from finetune_trainer.evaluation.contrasts import (
    FEWEST_CLUSTERS,
    Contrasts,
    Grouping,
    Means,
    RowValues,
    contrast,
    holm,
)
from finetune_trainer.evaluation.metrics import Floats, Integers

LEVEL = 0.05


class Swapper:
    """Exchanges the terms of pairs in texts, all at once: no term is exchanged twice.

    A term is found between what are no letters, digits or underscores, the longest first.
    """

    def __init__(self, pairs: Sequence[Sequence[str]]) -> None:
        both = [
            (one, other)
            for first, second in pairs
            for one, other in ((first, second), (second, first))
        ]
        self._partners: dict[str, str] = {}
        for one, other in both:
            self._partners.setdefault(one, other)
        # What is written out comes first: `US` is not `us` in capitals where both are named.
        for one, other in both:
            for form, partner in _cases(one, other):
                self._partners.setdefault(form, partner)
        longest_first = sorted(self._partners, key=len, reverse=True)
        self._terms = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def twin(self, text: str) -> str | None:
        """The text with its terms exchanged; None if it holds none."""
        exchanged, number = self._terms.subn(lambda found: self._partners[found[0]], text)
        return exchanged if number else None


def _cases(one: str, other: str) -> Iterator[tuple[str, str]]:
    """The other cases of a term in small letters, each with its partner in the same."""
    if one == one.lower():
        yield one[0].upper() + one[1:], other[0].upper() + other[1:]
        yield one.upper(), other.upper()


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a swap does: the rows that hold a term, whether each one's answer flips, and how far.

    ``flips`` is unset where answers are numbers, of which none is another one's opposite.
    """

    rows: Integers
    flips: NDArray[np.bool_] | None
    change: Floats


def compare(
    changes: Mapping[str, Changes], clusters: Integers | None = None
) -> CounterfactualsReport:
    """Sum up each swap, and compare it with the one called neutral.

    Both are samples of the same test rows, so a row (or its cluster) that is in both pulls both
    means, and the difference's interval and test know it: see ``contrasts``. Intervals of flip
    rates are Wilson's, at Student's quantile.
    """
    neutral = changes[NEUTRAL]
    swaps = {name: one for name, one in changes.items() if name != NEUTRAL}
    against = {name: _compared((one, neutral), clusters) for name, one in swaps.items()}
    tested = [name for name, found in against.items() if found.comparable[0]]
    raw = np.asarray([against[name].p_values[0] for name in tested], dtype=np.float64)
    p_values = dict(zip(tested, holm(raw).tolist(), strict=True))
    return CounterfactualsReport(
        neutral=_scores(NEUTRAL, neutral, clusters),
        swaps=tuple(
            _scores(name, one, clusters).model_copy(
                update=_excess(against[name], p_values.get(name))
            )
            for name, one in swaps.items()
        ),
    )


def _scores(name: str, changes: Changes, clusters: Integers | None) -> SwapScores:
    """What one swap does by itself."""
    change = _compared((replace(changes, flips=None),), clusters).group
    flips = None if changes.flips is None else _compared((changes,), clusters).group
    return SwapScores(
        name=name,
        rows=len(changes.rows),
        flip_rate=None if flips is None else _interval(flips),
        change=_interval(change),
        insufficient=not change.enough[0],
    )


def _excess(found: Contrasts, p_value: float | None) -> dict[str, Any]:
    """The fields that say how a swap compares with the control; without rows enough it doesn't."""
    if p_value is None:
        return {"insufficient": True}
    difference = Interval(
        value=float(found.difference[0]), low=float(found.low[0]), high=float(found.high[0])
    )
    worse = p_value <= LEVEL and difference.value > 0
    return {"excess": difference, "p_value": p_value, "found": worse}


def _compared(samples: Sequence[Changes], clusters: Integers | None) -> Contrasts:
    """The first sample's mean against the other's; rows, or what they belong to, are the units."""
    rows = np.concatenate([one.rows for one in samples])
    is_share = all(one.flips is not None for one in samples)
    parts = [one.change if one.flips is None else one.flips.astype(np.float64) for one in samples]
    values = RowValues(
        values=np.concatenate(parts), counted=np.ones(len(rows), dtype=np.bool_), is_share=is_share
    )
    grouping = Grouping(
        group=np.repeat(np.arange(len(samples)), [len(one.rows) for one in samples]),
        groups=len(samples),
        cluster=rows if clusters is None else clusters[rows],
    )
    return contrast(values, grouping)


def _interval(found: Means) -> Interval | None:
    if not found.rows[0]:
        return None
    if found.clusters[0] < FEWEST_CLUSTERS:
        return Interval(value=float(found.value[0]))
    return Interval(value=float(found.value[0]), low=float(found.low[0]), high=float(found.high[0]))
