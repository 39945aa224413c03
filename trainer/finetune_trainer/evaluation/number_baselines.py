"""Conventional methods that tell a number from a text: the mean, and TF-IDF into ridge regression.

``prepare`` fits them on the training rows and saves them, without pickle; ``evaluate`` loads them
and scores the same test rows as the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold

from finetune_api.markers import Contract
from finetune_api.tasks import Baseline
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

_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
_MEAN_FILE = "mean.json"


class Mean(Contract):
    """Says of every row the mean of the training rows; knows no text."""

    value: float

    @property
    def name(self) -> Baseline:
        """How reports and gates call it."""
        return Baseline.MEAN

    def predict(self, texts: Sequence[str]) -> Floats:
        """The same for every text."""
        return np.full(len(texts), self.value)


@dataclass(frozen=True)
class TfidfRidge:
    """TF-IDF vectors into a ridge regression."""

    ngrams: NGrams
    vectorizer: Any  # scikit-learn publishes no types
    coefficients: Floats
    intercept: float
    name: Baseline = Baseline.TFIDF

    def predict(self, texts: Sequence[str]) -> Floats:
        """A number for each text."""
        if not len(texts):
            return np.zeros(0)
        vectors = self.vectorizer.transform(texts)
        return np.asarray(vectors @ self.coefficients + self.intercept, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class FittedNumbers:
    """Both baselines; what cross-validation within the training rows chose, and the RMSE there."""

    mean: Mean
    mean_rmse: float
    tfidf: TfidfRidge
    tfidf_rmse: float | None
    settings: dict[str, str]


def fit_number_baselines(
    texts: Sequence[str], numbers: Sequence[float], groups: Sequence[object], seed: int
) -> FittedNumbers:
    """Fit mean and TF-IDF on the training rows.

    Rows of one group (equal inputs, or the group column's value) stay in one fold. The same rows
    and seed give the same baselines.
    """
    targets = np.asarray(numbers, dtype=np.float64)
    _, units = np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)
    search = drawn(len(texts), SEARCH_ROWS, seed)
    chosen = _search([texts[row] for row in search], targets[search], units[search], seed)
    fit = drawn(len(texts), FIT_ROWS, seed)
    vectorizer = make_vectorizer(chosen.ngrams)
    vectors = vectorizer.fit_transform([texts[row] for row in fit])
    ridge = Ridge(alpha=chosen.strength).fit(vectors, targets[fit])
    return FittedNumbers(
        mean=Mean(value=float(targets.mean())),
        mean_rmse=float(targets.std()),
        tfidf=TfidfRidge(
            chosen.ngrams,
            vectorizer,
            np.asarray(ridge.coef_, dtype=np.float64),
            float(ridge.intercept_),
        ),
        tfidf_rmse=chosen.rmse,
        settings={
            "n-grams": str(chosen.ngrams),
            "alpha": f"{chosen.strength:g}",
            "folds": str(chosen.folds),
            "rows": str(len(fit)),
        },
    )


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """What a search ended with; without folds it is the first candidate, unmeasured."""

    ngrams: NGrams
    strength: float
    rmse: float | None
    folds: int


def _search(texts: list[str], targets: Floats, units: NDArray[np.int64], seed: int) -> _Choice:
    """Try every setting in every fold; the least RMSE wins, the simpler setting in a tie."""
    number = min(FOLDS, len(np.unique(units)))
    if number < 2:
        return _Choice(ngrams=CANDIDATES[0], strength=1.0, rmse=None, folds=0)
    cut = GroupKFold(n_splits=number, shuffle=True, random_state=seed)
    folds = list(cut.split(targets, targets, units))
    squares = {(ngrams, strength): 0.0 for ngrams in CANDIDATES for strength in _STRENGTHS}
    for ngrams in CANDIDATES:
        for train, held in folds:
            vectorizer = make_vectorizer(ngrams)
            vectors = vectorizer.fit_transform([texts[row] for row in train])
            unseen = vectorizer.transform([texts[row] for row in held])
            for strength in _STRENGTHS:
                ridge = Ridge(alpha=strength).fit(vectors, targets[train])
                gaps = ridge.predict(unseen) - targets[held]
                squares[ngrams, strength] += float((gaps**2).sum())
    ngrams, strength = min(squares, key=lambda setting: squares[setting])
    rmse = float(np.sqrt(squares[ngrams, strength] / len(targets)))
    return _Choice(ngrams=ngrams, strength=strength, rmse=rmse, folds=number)


def save_number_baselines(mean: Mean, tfidf: TfidfRidge, folder: Path) -> None:
    """Write the baselines as JSON and safetensors; nothing in them runs when it is read.

    Raises
    ------
    OSError
        If the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MEAN_FILE).write_text(mean.model_dump_json(by_alias=True))
    arrays = {"coef": tfidf.coefficients, "intercept": np.asarray([tfidf.intercept])}
    save_tfidf(folder, tfidf.ngrams, tfidf.vectorizer, arrays)


def load_number_baselines(folder: Path) -> tuple[Mean, TfidfRidge]:
    """Read what ``save_number_baselines`` wrote: the same numbers for the same texts.

    Raises
    ------
    DataError
        If a file is missing.
    StorageError
        If one can't be read.
    """
    with reading_baselines(folder):
        mean = Mean.model_validate_json((folder / _MEAN_FILE).read_bytes())
        ngrams, vectorizer, arrays = load_tfidf(folder)
    return mean, TfidfRidge(ngrams, vectorizer, arrays["coef"], float(arrays["intercept"][0]))
