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

from finetune_api.markers import Contract
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation.multilabel import THRESHOLD, Flags, figures, sigmoid
from finetune_trainer.evaluation.search import Fitted, group_folds, units_of, unseen_by
from finetune_trainer.evaluation.stored import reading_baselines
from finetune_trainer.evaluation.tfidf import (
    NGrams,
    fit_tfidf,
    load_tfidf,
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
        return _probabilities((self.coefficients, self.intercepts), vectors)


def fit_label_baselines(
    texts: Sequence[str], truth: Flags, groups: Sequence[object], seed: int
) -> tuple[Fitted[Shares], Fitted[TfidfLabels]]:
    """Fit shares and TF-IDF on the training rows; ``truth`` is ``[rows, labels]``.

    Rows of one group (equal inputs, or the group column's value) stay in one fold. The same rows
    and seed give the same baselines.
    """
    units = units_of(groups)
    shares = Shares(shares=tuple(truth.mean(axis=0).tolist()))
    tfidf = fit_tfidf(
        texts,
        lambda rows: group_folds(units[rows], seed),
        strengths=("C", _STRENGTHS),
        learn=lambda vectors, rows, strength: fit_logistics(vectors, truth[rows], strength),
        tell=_probabilities,
        score=lambda rows, told: micro_f1(truth[rows], np.concatenate(told)),
        seed=seed,
    )
    return (
        Fitted(baseline=shares, cross_validated=micro_f1(truth, shares.predict_proba(texts))),
        Fitted(
            baseline=TfidfLabels(tfidf.ngrams, tfidf.vectorizer, *tfidf.learned),
            settings=tfidf.settings,
            cross_validated=tfidf.choice.score,
            unseen=unseen_by(tfidf.choice),
        ),
    )


def micro_f1(truth: Flags, probabilities: Floats) -> float:
    """F1 of all labels of all rows together."""
    answers = (probabilities >= THRESHOLD)[None]
    return float(figures(truth, answers, np.ones((1, len(truth))))[Metric.MICRO_F1][0, 0])


def _probabilities(learned: tuple[Floats, Floats], vectors: Any) -> Floats:
    coefficients, intercepts = learned
    return sigmoid(np.asarray(vectors @ coefficients.T) + intercepts)


def fit_logistics(vectors: Any, truth: Flags, strength: float) -> tuple[Floats, Floats]:
    """Coefficients ``[labels, features]`` and intercepts ``[labels]`` of a regression per label."""
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
