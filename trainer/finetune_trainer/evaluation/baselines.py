"""Conventional classifiers: what a model must beat to be worth a GPU.

``prepare`` fits them on the training rows and saves them, without pickle; ``evaluate`` loads them
and scores the same test rows as the model.
"""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from finetune_api.markers import Contract
from finetune_api.tasks import Baseline as BaselineName
from finetune_trainer.evaluation.tfidf import (
    CANDIDATES,
    FIT_ROWS,
    FOLDS,
    SEARCH_ROWS,
    NGrams,
    drawn,
    load_tfidf,
    make_vectorizer,
    reading_baselines,
    save_tfidf,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STRENGTHS = (1.0, 3.0, 10.0, 30.0)
_ITERATIONS = 300
_MAJORITY_FILE = "majority.json"


class Baseline(Protocol):
    """A fitted baseline."""

    @property
    def name(self) -> BaselineName:
        """How reports and gates call it."""

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """Probabilities ``[rows, classes]``, rows summing to 1, classes by their number."""


@dataclass(frozen=True)
class Majority:
    """Says of every row what is most frequent in training; knows no input."""

    shares: tuple[float, ...]
    name: BaselineName = BaselineName.MAJORITY

    def predict_proba(self, texts: Sized) -> Floats:
        """The classes' shares, for every row alike."""
        return np.tile(np.asarray(self.shares), (len(texts), 1))


@dataclass(frozen=True)
class TfidfLogistic:
    """TF-IDF vectors into a logistic regression."""

    ngrams: NGrams
    classes: int
    vectorizer: Any  # scikit-learn publishes no types
    classifier: Any
    name: BaselineName = BaselineName.TFIDF

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """As scikit-learn has it; 0 for a class so rare that the rows drawn to fit held none."""
        probabilities = np.zeros((len(texts), self.classes))
        if len(texts):
            vectors = self.vectorizer.transform(texts)
            probabilities[:, self.classifier.classes_] = self.classifier.predict_proba(vectors)
        return probabilities


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A baseline with what cross-validation within the training rows chose, and how that did."""

    baseline: Baseline
    settings: dict[str, str]
    cross_validated_accuracy: float | None


def fit_baselines(
    texts: Sequence[str], labels: Sequence[int], groups: Sequence[object], seed: int
) -> list[Fitted]:
    """Fit majority and TF-IDF on the training rows.

    ``labels`` are class numbers from 0 without gaps; rows of one group (equal inputs, or the
    group column's value) stay in one fold. The same rows and seed give the same baselines.
    """
    targets = np.asarray(labels, dtype=np.int64)
    _, units = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    majority = Majority(shares=tuple((np.bincount(targets) / len(targets)).tolist()))
    most_frequent = float(max(majority.shares))
    search = drawn(len(texts), SEARCH_ROWS, seed)
    chosen = _search([texts[row] for row in search], targets[search], units[search], seed)
    fit = drawn(len(texts), FIT_ROWS, seed)
    vectorizer = make_vectorizer(chosen.ngrams)
    vectors = vectorizer.fit_transform([texts[row] for row in fit])
    classifier = _classifier(chosen.strength).fit(vectors, targets[fit])
    return [
        Fitted(baseline=majority, settings={}, cross_validated_accuracy=most_frequent),
        Fitted(
            baseline=TfidfLogistic(chosen.ngrams, len(majority.shares), vectorizer, classifier),
            settings={
                "n-grams": str(chosen.ngrams),
                "C": f"{chosen.strength:g}",
                "folds": str(chosen.folds),
                "rows": str(len(fit)),
            },
            cross_validated_accuracy=chosen.accuracy,
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What a search ended with; without folds it is the first candidate, unmeasured."""

    ngrams: NGrams
    strength: float
    accuracy: float | None
    folds: int


def _search(texts: list[str], targets: Integers, units: Integers, seed: int) -> _Choice:
    """Try every setting in every fold; the best mean accuracy wins, the simpler one in a tie."""
    folds = list(class_folds(targets, units, seed))
    if not folds:
        return _Choice(ngrams=CANDIDATES[0], strength=1.0, accuracy=None, folds=0)
    scores = {(ngrams, strength): 0.0 for ngrams in CANDIDATES for strength in _STRENGTHS}
    scored = sum(len(held) for _, held in folds)
    for ngrams in CANDIDATES:
        for train, held in folds:
            vectorizer = make_vectorizer(ngrams)
            vectors = vectorizer.fit_transform([texts[row] for row in train])
            unseen = vectorizer.transform([texts[row] for row in held])
            for strength in _STRENGTHS:
                classifier = _classifier(strength).fit(vectors, targets[train])
                right = np.count_nonzero(classifier.predict(unseen) == targets[held])
                scores[ngrams, strength] += right / scored
    ngrams, strength = max(scores, key=lambda setting: scores[setting])
    accuracy = float(scores[ngrams, strength])
    return _Choice(ngrams=ngrams, strength=strength, accuracy=accuracy, folds=len(folds))


def class_folds(
    targets: Integers, units: Integers, seed: int
) -> Iterator[tuple[Integers, Integers]]:
    """Folds that share no unit, each with every class to learn from; none if there are too few."""
    per_class = [len(np.unique(units[targets == number])) for number in np.unique(targets)]
    number = min(FOLDS, *per_class)
    if number < 2 or len(per_class) < 2:
        return
    cut = StratifiedGroupKFold(n_splits=number, shuffle=True, random_state=seed)
    for train, held in cut.split(targets, targets, units):
        if len(held) and len(np.unique(targets[train])) == len(per_class):
            yield train, held


def _classifier(strength: float) -> Any:
    return LogisticRegression(C=strength, max_iter=_ITERATIONS)


class _SavedMajority(Contract):
    shares: tuple[float, ...]


def save_majority(majority: Majority, folder: Path) -> None:
    """Write it as JSON."""
    saved = _SavedMajority(shares=majority.shares)
    (folder / _MAJORITY_FILE).write_text(saved.model_dump_json(by_alias=True))


def load_majority(folder: Path) -> Majority:
    """Read what ``save_majority`` wrote."""
    saved = _SavedMajority.model_validate_json((folder / _MAJORITY_FILE).read_bytes())
    return Majority(saved.shares)


def save_baselines(baselines: Sequence[Baseline], folder: Path) -> None:
    """Write the baselines as JSON and safetensors; nothing in them runs when it is read.

    Raises
    ------
    OSError
        If the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for baseline in baselines:
        if isinstance(baseline, Majority):
            save_majority(baseline, folder)
        elif isinstance(baseline, TfidfLogistic):
            _save_tfidf(baseline, folder)
        else:
            raise TypeError(f"a baseline of type {type(baseline).__name__} has no form on disk")


def _save_tfidf(baseline: TfidfLogistic, folder: Path) -> None:
    fitted = baseline.classifier
    arrays = {"coef": fitted.coef_, "intercept": fitted.intercept_, "classes": fitted.classes_}
    save_tfidf(folder, baseline.ngrams, baseline.vectorizer, arrays)


def load_baselines(folder: Path) -> list[Baseline]:
    """Read what ``save_baselines`` wrote: the same probabilities for the same texts.

    Raises
    ------
    DataError
        If a file is missing.
    StorageError
        If one can't be read.
    """
    with reading_baselines(folder):
        majority = load_majority(folder)
        ngrams, vectorizer, arrays = load_tfidf(folder)
    classifier = _classifier(1.0)
    classifier.classes_ = arrays["classes"]
    classifier.coef_ = arrays["coef"]
    classifier.intercept_ = arrays["intercept"]
    return [
        majority,
        TfidfLogistic(ngrams, len(majority.shares), vectorizer, classifier),
    ]
