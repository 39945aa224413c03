"""Conventional methods that tell several labels: each one's share, and TF-IDF with a logistic each.

``prepare`` fits them on the training rows and saves them, without pickle; ``evaluate`` loads them
and scores the same test rows as the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from finetune_api.markers import Contract
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation.multilabel import THRESHOLD, Flags, figures, sigmoid
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

_STRENGTHS = (1.0, 3.0, 10.0, 30.0)
_ITERATIONS = 300
_SHARES_FILE = "shares.json"


class Shares(Contract):
    """Says of every row how frequent each label is in training; knows no text."""

    shares: tuple[float, ...]

    @property
    def name(self) -> Baseline:
        """How reports and gates call it."""
        return Baseline.MAJORITY

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """The labels' shares, for every row alike, ``[rows, labels]``."""
        return np.tile(np.asarray(self.shares), (len(texts), 1))


@dataclass(frozen=True)
class TfidfLabels:
    """TF-IDF vectors into a logistic regression for each label: ``[labels, terms]``."""

    ngrams: NGrams
    vectorizer: Any  # scikit-learn publishes no types
    coefficients: Floats
    intercepts: Floats
    name: Baseline = Baseline.TFIDF

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """Probabilities ``[rows, labels]``, each label's for itself."""
        if not len(texts):
            return np.zeros((0, len(self.intercepts)))
        vectors = self.vectorizer.transform(texts)
        return sigmoid(np.asarray(vectors @ self.coefficients.T) + self.intercepts)


@dataclass(frozen=True, kw_only=True)
class FittedLabels:
    """Both baselines; what cross-validation within the training rows chose, and micro F1 there."""

    shares: Shares
    shares_f1: float
    tfidf: TfidfLabels
    tfidf_f1: float | None
    settings: dict[str, str]


def fit_label_baselines(
    texts: Sequence[str], truth: Flags, groups: Sequence[object], seed: int
) -> FittedLabels:
    """Fit shares and TF-IDF on the training rows; ``truth`` is ``[rows, labels]``.

    Rows of one group (equal inputs, or the group column's value) stay in one fold. The same rows
    and seed give the same baselines.
    """
    _, units = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    shares = Shares(shares=tuple(truth.mean(axis=0).tolist()))
    search = drawn(len(texts), SEARCH_ROWS, seed)
    chosen = _search([texts[row] for row in search], truth[search], units[search], seed)
    fit = drawn(len(texts), FIT_ROWS, seed)
    vectorizer = make_vectorizer(chosen.ngrams)
    vectors = vectorizer.fit_transform([texts[row] for row in fit])
    coefficients, intercepts = _logistics(vectors, truth[fit], chosen.strength)
    return FittedLabels(
        shares=shares,
        shares_f1=micro_f1(truth, shares.predict_proba(texts)),
        tfidf=TfidfLabels(chosen.ngrams, vectorizer, coefficients, intercepts),
        tfidf_f1=chosen.f1,
        settings={
            "n-grams": str(chosen.ngrams),
            "C": f"{chosen.strength:g}",
            "folds": str(chosen.folds),
            "rows": str(len(fit)),
        },
    )


def micro_f1(truth: Flags, probabilities: Floats) -> float:
    """F1 of all labels of all rows together."""
    answers = (probabilities >= THRESHOLD)[None]
    return float(figures(truth, answers, np.ones((1, len(truth))))[Metric.MICRO_F1][0, 0])


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What a search ended with; without folds it is the first candidate, unmeasured."""

    ngrams: NGrams
    strength: float
    f1: float | None
    folds: int


def _search(texts: list[str], truth: Flags, units: NDArray[np.int64], seed: int) -> _Choice:
    """Try every setting in every fold; the best micro F1 wins, the simpler setting in a tie."""
    number = min(FOLDS, len(np.unique(units)))
    if number < 2:
        return _Choice(ngrams=CANDIDATES[0], strength=1.0, f1=None, folds=0)
    folds = list(
        GroupKFold(n_splits=number, shuffle=True, random_state=seed).split(truth, None, units)
    )
    told = {
        (ngrams, strength): np.zeros(truth.shape)
        for ngrams in CANDIDATES
        for strength in _STRENGTHS
    }
    for ngrams in CANDIDATES:
        for train, held in folds:
            vectorizer = make_vectorizer(ngrams)
            vectors = vectorizer.fit_transform([texts[row] for row in train])
            unseen = vectorizer.transform([texts[row] for row in held])
            for strength in _STRENGTHS:
                coefficients, intercepts = _logistics(vectors, truth[train], strength)
                told[ngrams, strength][held] = sigmoid(unseen @ coefficients.T + intercepts)
    scores = {setting: micro_f1(truth, probabilities) for setting, probabilities in told.items()}
    ngrams, strength = max(scores, key=lambda setting: scores[setting])
    return _Choice(ngrams=ngrams, strength=strength, f1=scores[ngrams, strength], folds=number)


def _logistics(vectors: Any, truth: Flags, strength: float) -> tuple[Floats, Floats]:
    """Coefficients ``[labels, terms]`` and intercepts ``[labels]`` of a regression per label."""
    rows, labels = truth.shape
    coefficients, intercepts = np.zeros((labels, vectors.shape[1])), np.zeros(labels)
    for place in range(labels):
        having = int(truth[:, place].sum())
        if having in (0, rows):
            # All alike: there is nothing to fit, and half a row keeps the odds finite.
            intercepts[place] = np.log((having + 0.5) / (rows - having + 0.5))
            continue
        fitted = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(vectors, truth[:, place])
        coefficients[place], intercepts[place] = fitted.coef_[0], fitted.intercept_[0]
    return coefficients, intercepts


def save_label_baselines(shares: Shares, tfidf: TfidfLabels, folder: Path) -> None:
    """Write the baselines as JSON and safetensors; nothing in them runs when it is read.

    Raises
    ------
    OSError
        If the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _SHARES_FILE).write_text(shares.model_dump_json(by_alias=True))
    arrays = {"coef": tfidf.coefficients, "intercept": tfidf.intercepts}
    save_tfidf(folder, tfidf.ngrams, tfidf.vectorizer, arrays)


def load_label_baselines(folder: Path) -> tuple[Shares, TfidfLabels]:
    """Read what ``save_label_baselines`` wrote: the same probabilities for the same texts.

    Raises
    ------
    DataError
        If a file is missing.
    StorageError
        If one can't be read.
    """
    with reading_baselines(folder):
        shares = Shares.model_validate_json((folder / _SHARES_FILE).read_bytes())
        ngrams, vectorizer, arrays = load_tfidf(folder)
    return shares, TfidfLabels(ngrams, vectorizer, arrays["coef"], arrays["intercept"])
