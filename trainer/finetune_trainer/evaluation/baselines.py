"""Conventional classifiers: what a model must beat to be worth a GPU.

``prepare`` fits them on the training rows and saves them, without pickle; ``evaluate`` loads them
and scores the same test rows as the model.
"""

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

from finetune_api.markers import Contract
from finetune_api.tasks import Baseline as BaselineName
from finetune_trainer.evaluation.search import Fitted, class_folds, units_of, unseen_by
from finetune_trainer.evaluation.stored import reading_baselines, save_arrays
from finetune_trainer.evaluation.tfidf import (
    NGrams,
    fit_tfidf,
    load_tfidf,
    save_tfidf,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_STRENGTHS = (1.0, 3.0, 10.0, 30.0)
_ITERATIONS = 300
_MAJORITY_FILE = "majority.json"
_SELECT_FILE = "select.safetensors"


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
        if not len(texts):
            return np.zeros((0, self.classes))
        vectors = self.vectorizer.transform(texts)
        return class_probabilities(self.classifier, vectors, self.classes)


def class_probabilities(classifier: Any, lines: Any, classes: int) -> Floats:
    """What scikit-learn's classifier says ``[rows, classes]``; 0 for those that it never saw."""
    probabilities = np.zeros((lines.shape[0], classes))
    probabilities[:, classifier.classes_] = classifier.predict_proba(lines)
    return probabilities


def by_class(classifier: Any) -> tuple[Floats, Floats]:
    """Coefficients and intercepts, a line per class; of two classes scikit-learn has but one."""
    coefficients = np.asarray(classifier.coef_, dtype=np.float64)
    intercepts = np.asarray(classifier.intercept_, dtype=np.float64)
    if len(coefficients) < len(classifier.classes_):
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercepts = np.concatenate([np.zeros_like(intercepts), intercepts])
    return coefficients, intercepts


def share_right(labels: Integers, told: Sequence[Floats]) -> float:
    """Accuracy of the likeliest classes over all folds."""
    return float((np.concatenate(told).argmax(axis=1) == labels).mean())


def fit_baselines(
    texts: Sequence[str], labels: Sequence[int], groups: Sequence[object], seed: int
) -> tuple[Fitted[Majority], Fitted[TfidfLogistic]]:
    """Fit majority and TF-IDF on the training rows.

    ``labels`` are class numbers from 0 without gaps; rows of one group (equal inputs, or the
    group column's value) stay in one fold. The same rows and seed give the same baselines.
    """
    targets = np.asarray(labels, dtype=np.int64)
    units = units_of(groups)
    majority = Majority(shares=tuple((np.bincount(targets) / len(targets)).tolist()))
    classes = len(majority.shares)
    tfidf = fit_tfidf(
        texts,
        lambda rows: class_folds(targets[rows], units[rows], seed),
        strengths=("C", _STRENGTHS),
        learn=lambda vectors, rows, strength: _classifier(strength).fit(vectors, targets[rows]),
        tell=lambda classifier, vectors: class_probabilities(classifier, vectors, classes),
        score=lambda rows, told: share_right(targets[rows], told),
        seed=seed,
    )
    return (
        Fitted(baseline=majority, cross_validated=float(max(majority.shares))),
        Fitted(
            baseline=TfidfLogistic(tfidf.ngrams, classes, tfidf.vectorizer, tfidf.learned),
            settings=tfidf.settings,
            cross_validated=tfidf.choice.score,
            unseen=unseen_by(tfidf.choice),
        ),
    )


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


def save_select(probabilities: Mapping[BaselineName, Floats], folder: Path) -> None:
    """Keep what baselines say of the select rows, ``[rows, classes]``: it tunes their thresholds.

    ``evaluate`` has the select rows as the model reads them, and no texts.
    """
    whole = {name.value: values for name, values in probabilities.items()}
    save_arrays(whole, folder / _SELECT_FILE)


def load_select(folder: Path) -> Mapping[BaselineName, Floats]:
    """Read what ``save_select`` wrote.

    Raises
    ------
    DataError
        If it is missing.
    StorageError
        If it can't be read.
    """
    with reading_baselines(folder):
        kept = load_file(folder / _SELECT_FILE)
    return {BaselineName(name): values for name, values in kept.items()}


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
