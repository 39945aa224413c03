"""Conventional taggers: each word's most frequent tag, and a logistic regression on word features.

``prepare`` fits them on the training rows and saves them, without pickle; ``evaluate`` loads them
and scores the same test rows as the model. They read rows whole, however
long.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.numpy import load_file
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from finetune_api.markers import Contract
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.data.tagged import OUTSIDE, Tags, Words
from finetune_trainer.evaluation.metrics import Floats
from finetune_trainer.evaluation.search import (
    Choice,
    Fitted,
    Folds,
    Integers,
    group_folds,
    search,
    units_of,
)
from finetune_trainer.evaluation.spans import Finding
from finetune_trainer.evaluation.stored import reading_baselines, save_arrays
from finetune_trainer.evaluation.tagging import count, figures
from finetune_trainer.evaluation.tfidf import drawn

FOLDS = 3
SEARCH_WORDS = 20_000
"""Cross-validation looks at the rows of about so many words: it ranks settings only."""

FIT_WORDS = 100_000
"""The fit itself takes no more than this: time is finite."""

_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
_FEWEST_OCCURRENCES = 2
_ITERATIONS = 100
_CHUNK_ROWS = 2000
_AFFIXES = (1, 2, 3)
_WORDS_FILE = "words.json"
_FEATURES_FILE = "features.json"
_ARRAYS_FILE = "features.safetensors"


class Tagger(Protocol):
    """A fitted baseline."""

    @property
    def name(self) -> Baseline:
        """How reports and gates call it."""

    def tag(self, rows: Sequence[Words]) -> list[Tags]:
        """A tag for each word."""


class WordMajority(Contract):
    """Says of every word what it was most often in training; of an unknown one ``O``.

    Where there is no ``O``, it says of an unknown word what most are.
    """

    tags: dict[str, str]
    unknown: str

    @property
    def name(self) -> Baseline:
        """How reports and gates call it."""
        return Baseline.WORD_MAJORITY

    def tag(self, rows: Sequence[Words]) -> list[Tags]:
        """A tag for each word."""
        return [tuple(self.tags.get(word, self.unknown) for word in words) for words in rows]


@dataclass(frozen=True)
class WordFeatures:
    """What a word and its neighbors look like, into a logistic regression ``[tags, features]``."""

    known: tuple[str, ...]
    tags: tuple[str, ...]
    coefficients: Floats
    intercepts: Floats
    name: Baseline = Baseline.WORD_FEATURES

    def tag(self, rows: Sequence[Words]) -> list[Tags]:
        """A tag for each word, each chosen for itself."""
        made: list[Tags] = []
        for start in range(0, len(rows), _CHUNK_ROWS):
            chunk = rows[start : start + _CHUNK_ROWS]
            scores = _matrix(chunk, self.known) @ self.coefficients.T + self.intercepts
            told = iter(scores.argmax(axis=1).tolist())
            made.extend(tuple(self.tags[next(told)] for _ in words) for words in chunk)
        return made


def features_of(words: Words) -> list[set[str]]:
    """What each word of a row looks like: itself, its shape and affixes, and its neighbors."""
    return [set(_features(words, place)) for place in range(len(words))]


def _features(words: Words, place: int) -> Iterator[str]:
    word = words[place]
    yield f"word={word.lower()}"
    yield f"shape={shape_of(word)}"
    for length in _AFFIXES:
        yield f"prefix={word[:length].lower()}"
        yield f"suffix={word[-length:].lower()}"
    for step in (-2, -1, 1, 2):
        near = place + step
        if 0 <= near < len(words):
            yield f"{step}:word={words[near].lower()}"
            yield f"{step}:shape={shape_of(words[near])}"
        else:
            yield f"{step}:none"


def shape_of(word: str) -> str:
    """Capitals as X, small letters as x, digits as 0, runs of the same once (Collins 2002)."""
    kinds = "".join(
        "X" if one.isupper() else "x" if one.isalpha() else "0" if one.isdigit() else one
        for one in word
    )
    return re.sub(r"(.)\1+", r"\1", kinds)


def fit_taggers(
    rows: Sequence[Words],
    tags: Sequence[Tags],
    groups: Sequence[object],
    finding: Finding,
    seed: int,
) -> tuple[Fitted[WordMajority], Fitted[WordFeatures]]:
    """Fit both on the training rows; those of one group stay in one fold."""
    majority = fit_majority(rows, tags)
    searched = _rows_of(rows, SEARCH_WORDS, seed)
    folds = group_folds(units_of(groups)[searched], seed, FOLDS)
    chosen = _search(
        [rows[row] for row in searched], [tags[row] for row in searched], folds, finding
    )
    fit = _rows_of(rows, FIT_WORDS, seed)
    return (
        Fitted(baseline=majority, cross_validated=span_f1(tags, majority.tag(rows), finding)),
        Fitted(
            baseline=_fitted(
                [rows[row] for row in fit], [tags[row] for row in fit], chosen.strength
            ),
            settings={
                "C": f"{chosen.strength:g}",
                "folds": str(chosen.folds),
                "rows": str(len(fit)),
            },
            cross_validated=chosen.score,
        ),
    )


def span_f1(truth: Sequence[Tags], told: Sequence[Tags], finding: Finding) -> float:
    """Micro F1 over all spans of all rows."""
    counts = count(truth, [told], finding)
    return float(figures(counts, np.ones((1, len(truth))))[Metric.MICRO_F1][0, 0])


def fit_majority(rows: Sequence[Words], tags: Sequence[Tags]) -> WordMajority:
    """Count each word's tags; of equally frequent ones the first by name is taken."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for words, own in zip(rows, tags, strict=True):
        for word, tag in zip(words, own, strict=True):
            seen[word][tag] += 1
    everything = Counter(tag for own in tags for tag in own)
    return WordMajority(
        tags={word: _most_frequent(counter) for word, counter in seen.items()},
        unknown=OUTSIDE if OUTSIDE in everything else _most_frequent(everything),
    )


def _most_frequent(counter: Counter[str]) -> str:
    return min(counter, key=lambda tag: (-counter[tag], tag))


def _rows_of(rows: Sequence[Words], most_words: int, seed: int) -> Integers:
    """Rows drawn at random, as many as have about ``most_words`` words."""
    mean = sum(map(len, rows)) / len(rows)
    return drawn(len(rows), max(1, int(most_words / mean)), seed)


def _search(
    rows: list[Words], tags: list[Tags], folds: Folds, finding: Finding
) -> Choice[None, list[Tags]]:
    """Of features there is one kind; the strength is chosen by micro F1."""

    def fit(_features: None, train: Integers, held: Integers) -> Callable[[float], list[Tags]]:
        own, theirs = [rows[row] for row in train], [tags[row] for row in train]
        unseen = [rows[row] for row in held]
        return lambda strength: _fitted(own, theirs, strength).tag(unseen)

    def score(held: Integers, told: list[list[Tags]]) -> float:
        return span_f1([tags[row] for row in held], [row for fold in told for row in fold], finding)

    return search([None], _STRENGTHS, folds, default=(None, 1.0), fit=fit, score=score)


def _fitted(rows: Sequence[Words], tags: Sequence[Tags], strength: float) -> WordFeatures:
    """Fit on features that occur more than once, whatever they are of."""
    occurrences = Counter(name for words in rows for made in features_of(words) for name in made)
    known = sorted(name for name, times in occurrences.items() if times >= _FEWEST_OCCURRENCES)
    targets = [tag for own in tags for tag in own]
    told = tuple(sorted(set(targets)))
    if len(told) == 1:
        return WordFeatures(tuple(known), told, np.zeros((1, len(known))), np.zeros(1))
    fitted: Any = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    fitted.fit(_matrix(rows, known), targets)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(told) == 2:
        # Of two there is one line, for the second.
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return WordFeatures(tuple(known), told, coefficients, intercepts)


def _matrix(rows: Sequence[Words], known: Sequence[str]) -> sparse.csr_array:
    """Which of the known features each word of all rows has, ``[words, features]``."""
    number = {name: place for place, name in enumerate(known)}
    ends: list[int] = [0]
    columns: list[int] = []
    for words in rows:
        for made in features_of(words):
            columns.extend(number[name] for name in made if name in number)
            ends.append(len(columns))
    return sparse.csr_array(
        (np.ones(len(columns)), columns, ends), shape=(len(ends) - 1, len(known))
    )


class _SavedFeatures(Contract):
    known: tuple[str, ...]
    tags: tuple[str, ...]


def save_taggers(majority: WordMajority, features: WordFeatures, folder: Path) -> None:
    """Write both as JSON and safetensors; nothing in them runs when it is read.

    Raises
    ------
    OSError
        If the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _WORDS_FILE).write_text(majority.model_dump_json(by_alias=True))
    saved = _SavedFeatures(known=features.known, tags=features.tags)
    (folder / _FEATURES_FILE).write_text(saved.model_dump_json(by_alias=True))
    arrays = {"coef": features.coefficients, "intercept": features.intercepts}
    save_arrays(arrays, folder / _ARRAYS_FILE)


def load_taggers(folder: Path) -> tuple[Tagger, ...]:
    """Read what ``save_taggers`` wrote: the same tags for the same words.

    Raises
    ------
    DataError
        If a file is missing.
    StorageError
        If one can't be read.
    """
    with reading_baselines(folder):
        majority = WordMajority.model_validate_json((folder / _WORDS_FILE).read_bytes())
        saved = _SavedFeatures.model_validate_json((folder / _FEATURES_FILE).read_bytes())
        arrays = load_file(folder / _ARRAYS_FILE)
    features = WordFeatures(saved.known, saved.tags, arrays["coef"], arrays["intercept"])
    return majority, features
