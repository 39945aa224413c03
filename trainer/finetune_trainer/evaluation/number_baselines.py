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

from finetune_api.markers import Contract
from finetune_api.tasks import Baseline
from finetune_trainer.evaluation.search import Fitted, group_folds, units_of, unseen_by
from finetune_trainer.evaluation.stored import reading_baselines
from finetune_trainer.evaluation.tfidf import (
    NGrams,
    fit_tfidf,
    load_tfidf,
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


def fit_number_baselines(
    texts: Sequence[str], numbers: Sequence[float], groups: Sequence[object], seed: int
) -> tuple[Fitted[Mean], Fitted[TfidfRidge]]:
    """Fit mean and TF-IDF on the training rows.

    Rows of one group (equal inputs, or the group column's value) stay in one fold. The same rows
    and seed give the same baselines.
    """
    targets = np.asarray(numbers, dtype=np.float64)
    units = units_of(groups)
    tfidf = fit_tfidf(
        texts,
        lambda rows: group_folds(units[rows], seed),
        strengths=("alpha", _STRENGTHS),
        learn=lambda vectors, rows, strength: Ridge(alpha=strength).fit(vectors, targets[rows]),
        tell=_predicted,
        score=lambda rows, told: -rmse(np.concatenate(told) - targets[rows]),
        seed=seed,
    )
    ridge = tfidf.learned
    return (
        Fitted(baseline=Mean(value=float(targets.mean())), cross_validated=float(targets.std())),
        Fitted(
            baseline=TfidfRidge(
                tfidf.ngrams,
                tfidf.vectorizer,
                np.asarray(ridge.coef_, dtype=np.float64),
                float(ridge.intercept_),
            ),
            settings=tfidf.settings,
            cross_validated=None if tfidf.choice.score is None else -tfidf.choice.score,
            unseen=unseen_by(tfidf.choice),
        ),
    )


def _predicted(ridge: Any, vectors: Any) -> Floats:
    return np.asarray(ridge.predict(vectors), dtype=np.float64)


def rmse(gaps: Floats) -> float:
    """The root of their mean square."""
    return float(np.sqrt(np.square(gaps).mean()))


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
