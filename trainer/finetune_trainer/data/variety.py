"""How much there is to learn from in rows: of how many kinds they are, and how varied their words.

Used by ``prepare`` and ``image_rows``.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune_api.datareport import TextVariety
from finetune_trainer.data.text_likeness import codes_of_words

SAMPLE = 42
"""Words in a sample, as McCarthy and Jarvis (2007, 2010) take them."""
_TEXTS_AT_ONCE = 10_000


def variety(texts: Sequence[bytes], families: Sequence[int] | None) -> TextVariety:
    """Describe texts by the codes of their words and the sizes of their families of near copies."""
    counts = _word_counts(texts)
    return TextVariety(
        words=int(counts.sum()),
        distinct_words=len(counts),
        lexical_diversity=lexical_diversity(counts),
        effective_rows=effective_number(families) if families else None,
    )


def effective_number(sizes: Sequence[int]) -> float:
    """The Hill number of order 1: the exponential of the entropy of the sizes' shares.

    As many as there are where all are equal, and near 1 where one holds nearly all. Hill,
    "Diversity and evenness", Ecology 54 (1973); Friedman and Dieng, "The Vendi Score", TMLR 2023.
    """
    shares = np.asarray(sizes, dtype=np.float64) / sum(sizes)
    return max(1.0, float(np.exp(-np.sum(shares * np.log(shares)))))


def lexical_diversity(counts: npt.NDArray[np.int64]) -> float | None:
    """The mean share of different words among 42 that are drawn at random without replacement.

    ``counts`` are how often each word occurs. It does not fall with the length of a text, as the
    plain ratio of types to tokens does. McCarthy and Jarvis, "vocd: a theoretical and empirical
    evaluation", Language Testing 24 (2007), and "MTLD, vocd-D, and HD-D", Behavior Research Methods
    42 (2010), whose HD-D it is. None with fewer words.
    """
    total = int(counts.sum())
    if total < SAMPLE:
        return None
    absent = np.ones(len(counts), dtype=np.float64)
    for before in range(SAMPLE):
        absent *= np.clip(total - counts - before, 0, None) / (total - before)
    return min(1.0, float(np.sum(1 - absent)) / SAMPLE)


def _word_counts(texts: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """How often each word occurs; memory goes by how many there are."""
    codes = np.empty(0, dtype=np.uint32)
    counts = np.empty(0, dtype=np.int64)
    for begin in range(0, len(texts), _TEXTS_AT_ONCE):
        some = codes_of_words(b"".join(texts[begin : begin + _TEXTS_AT_ONCE]))
        seen, of_these = np.unique(some, return_counts=True)
        codes, places = np.unique(np.concatenate([codes, seen]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([counts, of_these])).astype(np.int64)
    return counts
