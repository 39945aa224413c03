"""How near copies are found among rows of any kind. Used by ``near_copies``.

Rows that are nearly the same mostly share a key of some band, so that few pairs need a look
(locality-sensitive hashing: Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter
3). Each such pair is then compared itself, so that none is called a near copy by its keys. What
keys are and when two rows are near, ``text_likeness`` and ``image_likeness`` say.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

MOST_COMPARED = 16
"""With so many earlier rows of a key a row is compared, and with no more: what has one key by the
thousand is alike, or else hardly worth the square of its number."""

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Keys:
    """The rows that can be compared, by ascending place, and their keys.

    ``places`` is ``[rows]``, and ``bands`` ``[rows, bands, keys of a band]``, those of a row and
    band each another. ``untold`` are the places of rows of which too little is known.
    """

    places: Places
    bands: npt.NDArray[Any]  # of whichever unsigned integers
    untold: Sequence[int] = ()


class Likeness(Protocol):
    """What near copies are among the rows that it was made of."""

    @property
    def untold(self) -> str | None:
        """What reports call rows of which too little is known; None where none are named."""

    def keys(self) -> Keys:
        """What near copies mostly share."""

    def is_near(self, later: int, earlier: int) -> bool:
        """Whether two rows that have keys are near copies, by their places."""


@dataclass(frozen=True)
class Copies:
    """By the place of each near copy those of the earlier rows that it is one of, ascending.

    Of many earlier ones the first are named. ``untold`` are places of rows as ``Keys`` has them.
    """

    earlier: Mapping[int, Sequence[int]]
    untold: Sequence[int]


def find_copies(likeness: Likeness) -> Copies:
    """Look for near copies."""
    keys = likeness.keys()
    found: dict[int, list[int]] = {}
    for later, earlier in _candidates(keys):
        known = found.get(later, [])
        if earlier in known or (len(known) == MOST_COMPARED and earlier > known[-1]):
            continue
        if likeness.is_near(later, earlier):
            found[later] = sorted([*known, earlier])[:MOST_COMPARED]
    return Copies(found, keys.untold)


def _candidates(keys: Keys) -> Iterator[tuple[int, int]]:
    """Pairs of places that share a key, the later one first; a pair may come several times."""
    for band in range(keys.bands.shape[1]):
        of_band = keys.bands[:, band]
        places = np.repeat(keys.places, of_band.shape[1])
        order = np.argsort(of_band, axis=None, kind="stable")
        ordered = of_band.ravel()[order]
        begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else order
        lengths = np.diff(np.r_[begins, len(ordered)])
        for begin, length in zip(begins[lengths > 1], lengths[lengths > 1], strict=True):
            members = places[order[begin : begin + length]].tolist()
            for number, later in enumerate(members):
                yield from ((later, earlier) for earlier in members[: min(number, MOST_COMPARED)])
