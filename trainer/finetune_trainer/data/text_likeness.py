"""Which texts are nearly the same: by the runs of three words that they share.

Used by the forms of texts, ``cleaning`` and ``variety``. A text's *shingles* are its distinct runs
of three words (Broder 1997, "On the resemblance and containment of documents"), and two texts are
near copies if at least ``THRESHOLD`` of all shingles of both are in both (the Jaccard similarity):
that is one word changed in fifteen. Pairs that may be are found by MinHash in bands, and each is
then counted exactly. Nothing depends on the process or the machine.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from finetune_trainer.data.likeness import Keys

THRESHOLD = 0.7
FEWEST_SHINGLES = 8
"""Of fewer no text is called a near copy: a text of five words differs by any of them."""
FORM_SHARE = 0.2
"""Shingles that more than this share of the texts have are form, such as a prompt's frame."""
FEWEST_OF_FORM = 10
"""Nor are shingles form that so few texts have."""

BANDS = 25
BAND_ROWS = 4
"""A pair at the threshold is found with probability 1 - (1 - 0.7⁴)²⁵ = 0.999, at 0.8 0.999998."""

_RUN = 3
# Scripts that set no space between words: each character is taken for one.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_WORD = re.compile(rf"[^\W_{_UNSPACED}]+|\S")

_BUCKETS = 1 << 22
_SHINGLES_AT_ONCE = 1 << 18
_RANDOM = np.random.RandomState(1997)
_FACTORS = _RANDOM.randint(0, 1 << 62, BANDS * BAND_ROWS, dtype=np.uint64) * 2 + 1
_SHIFTS = _RANDOM.randint(0, 1 << 62, BANDS * BAND_ROWS, dtype=np.uint64)
_PLACES = _RANDOM.randint(0, 1 << 62, _RUN, dtype=np.uint64) * 2 + 1

Hashes = npt.NDArray[np.uint64]


def word_codes(text: str) -> bytes:
    """A 4-byte code of each word of a normalized text, and of every other character but spaces.

    Codes of words are odd. Two words in four billion have the same one.
    """
    codes = [
        zlib.crc32(one.encode("utf-8", "surrogatepass")) | 1
        if one[0].isalnum()
        else zlib.crc32(one.encode("utf-8", "surrogatepass")) & ~1
        for one in _WORD.findall(text)
    ]
    return np.asarray(codes, dtype=np.uint32).tobytes()


def codes_of_words(codes: bytes) -> npt.NDArray[np.uint32]:
    """Those of the codes that are of words."""
    every: npt.NDArray[np.uint32] = np.frombuffer(codes, dtype=np.uint32)
    return np.compress(every % 2 == 1, every)


def _shingles(words: bytes) -> Hashes:
    """The distinct runs of three words, as sorted hashes.

    Ends count as words, so that a change there weighs as much as one in the middle.
    """
    codes = np.frombuffer(words, dtype=np.uint32)
    padded = np.zeros(len(codes) + 2 * (_RUN - 1), dtype=np.uint64)
    padded[_RUN - 1 : len(padded) - _RUN + 1] = codes
    count = len(padded) - _RUN + 1
    runs = np.zeros(count, dtype=np.uint64)
    for place, factor in enumerate(_PLACES):
        runs += padded[place : place + count] * factor
    return np.unique(_mixed(runs))


def _mixed(values: Hashes) -> Hashes:
    """Spread the bits of each value over all of them (SplitMix64's finalizer)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class TextLikeness:
    """Texts by the codes of their words: their shingles without those that are form."""

    untold = None

    def __init__(self, texts: Sequence[bytes]) -> None:
        self._texts = texts
        # A count too high by a shared bucket does no harm: it is a few texts, not a fifth of them.
        texts_with = np.zeros(_BUCKETS, dtype=np.int32)
        for text in texts:
            texts_with[_bucket(_shingles(text))] += 1
        self._is_form = texts_with > max(FEWEST_OF_FORM, FORM_SHARE * len(texts))
        self._as_set = lru_cache(maxsize=4096)(lambda place: frozenset(self._of(place).tolist()))

    def keys(self) -> Keys:
        """A key for each band of the texts that are long enough."""
        places: list[int] = []
        keys = [np.empty((0, BANDS), dtype=np.uint64)]
        waiting: list[Hashes] = []
        held = 0
        for place in range(len(self._texts)):
            counted = self._of(place)
            if len(counted) < FEWEST_SHINGLES:
                continue
            places.append(place)
            waiting.append(counted)
            held += len(counted)
            if held >= _SHINGLES_AT_ONCE:
                keys.append(_band_keys(waiting))
                waiting, held = [], 0
        if waiting:
            keys.append(_band_keys(waiting))
        return Keys(np.asarray(places, dtype=np.int64), np.concatenate(keys)[:, :, None])

    def is_near(self, later: int, earlier: int) -> bool:
        """Whether they share enough: their Jaccard similarity."""
        first, second = self._as_set(later), self._as_set(earlier)
        shared = len(first & second)
        return shared / (len(first) + len(second) - shared) >= THRESHOLD

    def _of(self, place: int) -> Hashes:
        """The shingles of one text that count."""
        every = _shingles(self._texts[place])
        return every[~self._is_form[_bucket(every)]]


def _bucket(hashes: Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(42)).astype(np.int64)


def _band_keys(texts: Sequence[Hashes]) -> Hashes:
    """``[texts, BANDS]``: of each band its least hashes, put together."""
    every = np.concatenate(texts)
    begins = np.cumsum([0, *map(len, texts[:-1])])
    keys = np.zeros((len(texts), BANDS), dtype=np.uint64)
    for number, (factor, shift) in enumerate(zip(_FACTORS, _SHIFTS, strict=True)):
        least = np.minimum.reduceat(every * factor + shift, begins)
        band = keys[:, number // BAND_ROWS]
        keys[:, number // BAND_ROWS] = _mixed(band ^ least)
    return keys
