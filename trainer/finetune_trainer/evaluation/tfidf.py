"""TF-IDF vectors, as the baselines of every task on texts use them, and how they are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import TfidfVectorizer

from finetune_api.markers import Contract
from finetune_trainer.evaluation.search import Choice, Folds, Integers, search
from finetune_trainer.evaluation.stored import save_arrays

SEARCH_ROWS = 20_000
"""Cross-validation looks at no more rows than this, drawn at random: it ranks settings only."""

FIT_ROWS = 200_000
"""The fit itself takes no more than this: words gain little from more, and memory is finite."""

_MAX_TERMS = 200_000
_FILE = "tfidf.json"
_ARRAYS = "tfidf.safetensors"

Arrays = Mapping[str, NDArray[Any]]
L = TypeVar("L")
A = TypeVar("A")


class NGrams(Contract):
    """What a TF-IDF vector counts: runs of words, or of characters within words."""

    analyzer: str
    shortest: int
    longest: int

    def __str__(self) -> str:
        """As reports show it."""
        return f"{self.analyzer} {self.shortest}-{self.longest}"


CANDIDATES = (
    NGrams(analyzer="word", shortest=1, longest=1),
    NGrams(analyzer="word", shortest=1, longest=2),
    NGrams(analyzer="char_wb", shortest=3, longest=5),
)


def drawn(rows: int, most: int, seed: int) -> NDArray[np.int64]:
    """All row numbers, or ``most`` of them at random, in order."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, size=most, replace=False))


def make_vectorizer(ngrams: NGrams, vocabulary: dict[str, int] | None = None) -> Any:
    """A vectorizer to be fitted, or one that knows its terms already."""
    return TfidfVectorizer(
        analyzer=ngrams.analyzer,
        ngram_range=(ngrams.shortest, ngrams.longest),
        sublinear_tf=True,
        max_features=None if vocabulary is not None else _MAX_TERMS,
        # One-letter words count: they are words in many languages.
        token_pattern=r"(?u)\b\w+\b" if ngrams.analyzer == "word" else None,
        vocabulary=vocabulary,
    )


def _fitted(ngrams: NGrams, texts: Sequence[str]) -> tuple[Any, Any]:
    """A vectorizer that knows the texts' terms, and their vectors.

    Texts may hold no word at all, such as emojis alone; they are then alike.
    """
    vectorizer = make_vectorizer(ngrams)
    terms_of = vectorizer.build_analyzer()
    if any(terms_of(text) for text in texts):
        return vectorizer, vectorizer.fit_transform(texts)
    vectorizer = make_vectorizer(ngrams, {"": 0})
    vectorizer.idf_ = np.ones(1)
    return vectorizer, vectorizer.transform(texts)


@dataclass(frozen=True, kw_only=True)
class FittedTfidf(Generic[L, A]):
    """A vectorizer, what was learned on its vectors, and what the search for both ended with."""

    vectorizer: Any
    learned: L
    settings: dict[str, str]
    choice: Choice[NGrams, A]

    @property
    def ngrams(self) -> NGrams:
        """What the vectorizer counts."""
        return self.choice.features


def fit_tfidf(
    texts: Sequence[str],
    folds: Callable[[Integers], Folds],
    *,
    strengths: tuple[str, Sequence[float]],
    learn: Callable[[Any, Integers, float], L],
    tell: Callable[[L, Any], A],
    score: Callable[[Integers, list[A]], float],
    seed: int,
) -> FittedTfidf[L, A]:
    """Choose n-grams and strength (its name, and what it may be) in folds, and fit with them.

    ``folds`` divides the rows that are searched, which it is given, and says of which it speaks by
    their places among them. ``learn`` is for vectors, the rows that they are of and a strength;
    ``tell`` for what was learned and vectors of other rows; ``score`` as ``search`` has it.
    """
    drawn_rows = drawn(len(texts), SEARCH_ROWS, seed)

    def in_fold(ngrams: NGrams, train: Integers, held: Integers) -> Callable[[float], A]:
        vectorizer, vectors = _fitted(ngrams, [texts[row] for row in train])
        unseen = vectorizer.transform([texts[row] for row in held])
        return lambda strength: tell(learn(vectors, train, strength), unseen)

    symbol, values = strengths
    chosen = search(
        CANDIDATES,
        values,
        [(drawn_rows[train], drawn_rows[held]) for train, held in folds(drawn_rows)],
        default=(CANDIDATES[0], 1.0),
        fit=in_fold,
        score=score,
    )
    rows = drawn(len(texts), FIT_ROWS, seed)
    vectorizer, vectors = _fitted(chosen.features, [texts[row] for row in rows])
    return FittedTfidf(
        vectorizer=vectorizer,
        learned=learn(vectors, rows, chosen.strength),
        settings={
            "n-grams": str(chosen.features),
            symbol: f"{chosen.strength:g}",
            "folds": str(chosen.folds),
            "rows": str(len(rows)),
        },
        choice=chosen,
    )


class _Saved(Contract):
    ngrams: NGrams
    terms: tuple[str, ...]


def save_tfidf(folder: Path, ngrams: NGrams, vectorizer: Any, arrays: Arrays) -> None:
    """Write a fitted vectorizer and what was learned on its vectors; nothing in it can run.

    Raises
    ------
    OSError
        If the disk fails.
    """
    terms = tuple(str(term) for term in vectorizer.get_feature_names_out())
    saved = _Saved(ngrams=ngrams, terms=terms)
    (folder / _FILE).write_text(saved.model_dump_json(by_alias=True))
    save_arrays({"idf": vectorizer.idf_, **arrays}, folder / _ARRAYS)


def load_tfidf(folder: Path) -> tuple[NGrams, Any, Arrays]:
    """Read what ``save_tfidf`` wrote: the n-grams, the vectorizer, and what was learned."""
    saved = _Saved.model_validate_json((folder / _FILE).read_bytes())
    arrays = load_file(folder / _ARRAYS)
    vectorizer = make_vectorizer(saved.ngrams, {term: at for at, term in enumerate(saved.terms)})
    vectorizer.idf_ = arrays["idf"]
    return saved.ngrams, vectorizer, arrays
