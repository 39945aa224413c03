"""A head on the frozen model: logistic or ridge regression on what the untuned model makes of rows.

It answers whether tuning the body brings anything over training a head alone. ``probing`` computes
the features; here is what is learned on them, and how it is kept. Pure but for the files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from finetune_api.tasks import Baseline
from finetune_trainer.evaluation.baselines import by_class
from finetune_trainer.evaluation.label_baselines import fit_logistics, micro_f1
from finetune_trainer.evaluation.multilabel import sigmoid
from finetune_trainer.evaluation.number_baselines import rmse
from finetune_trainer.evaluation.search import (
    Fitted,
    Folds,
    class_folds,
    group_folds,
    on_one_core,
    search,
    units_of,
)
from finetune_trainer.evaluation.stored import reading_baselines, save_arrays
from finetune_trainer.evaluation.tfidf import drawn

SEARCH_ROWS = 1000
"""Cross-validation looks at no more rows than this, drawn at random: it ranks strengths only."""

_ITERATIONS = 100
_FILE = "probe.safetensors"

Features = NDArray[np.float32]
"""``[rows, features]``."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Targets = NDArray[Any]
"""Class numbers ``[rows]``, flags ``[rows, labels]`` or numbers ``[rows]``."""

Linear = tuple[Floats, Floats]
"""Coefficients ``[outputs, features]`` and intercepts ``[outputs]``."""


@dataclass(frozen=True, kw_only=True)
class ProbeForm:
    """What a probe learns for a task.

    ``learn`` is for standardized features, targets, a strength (called ``symbol``) and the number
    of outputs. ``tell`` makes of outputs, ``[rows, outputs]``, what the task's other baselines say.
    ``figure`` is the task's first metric of targets and what was told.
    """

    symbol: str
    strengths: Sequence[float]
    folds: Callable[[Targets, Integers, int], Folds]
    learn: Callable[[Features, Targets, float, int], Linear]
    tell: Callable[[Floats], Floats]
    figure: Callable[[Targets, Floats], float]
    lower_is_better: bool = False


def softmax(outputs: Floats) -> Floats:
    """Probabilities ``[rows, classes]``; 0 of a class whose output is minus infinity."""
    odds = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    probabilities: Floats = odds / odds.sum(axis=1, keepdims=True)
    return probabilities


def _classifier(features: Features, labels: Targets, strength: float, classes: int) -> Linear:
    """Of a class so rare that the rows drawn to fit held none the intercept is minus infinity."""
    coefficients = np.zeros((classes, features.shape[1]))
    intercepts = np.full(classes, -np.inf)
    if (labels == labels[0]).all():
        intercepts[labels[0]] = 0.0
        return coefficients, intercepts
    fitted = LogisticRegression(C=strength, max_iter=_ITERATIONS).fit(features, labels)
    coefficients[fitted.classes_], intercepts[fitted.classes_] = by_class(fitted)
    return coefficients, intercepts


def _regressor(features: Features, numbers: Targets, strength: float, _outputs: int) -> Linear:
    fitted = Ridge(alpha=strength).fit(features, numbers)
    return np.asarray([fitted.coef_], dtype=np.float64), np.asarray([fitted.intercept_])


CLASSES = ProbeForm(
    symbol="C",
    strengths=(0.001, 0.01, 0.1, 1.0),
    folds=class_folds,
    learn=_classifier,
    tell=softmax,
    figure=lambda labels, told: float((told.argmax(axis=1) == labels).mean()),
)

LABELS = ProbeForm(
    symbol="C",
    strengths=(0.001, 0.01, 0.1, 1.0),
    folds=lambda _, units, seed: group_folds(units, seed),
    learn=lambda features, truth, strength, _: fit_logistics(features, truth, strength),
    tell=sigmoid,
    figure=micro_f1,
)

NUMBERS = ProbeForm(
    symbol="alpha",
    strengths=(1.0, 10.0, 100.0, 1000.0),
    folds=lambda _, units, seed: group_folds(units, seed),
    learn=_regressor,
    tell=lambda outputs: outputs[:, 0],
    figure=lambda numbers, told: rmse(told - numbers),
    lower_is_better=True,
)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A regression on standardized features: outputs are linear in them."""

    mean: Floats
    deviation: Floats
    coefficients: Floats
    intercepts: Floats
    name: Baseline = Baseline.PROBE

    def outputs(self, features: Features) -> Floats:
        """What it gives for each output, ``[rows, outputs]``."""
        standardized = (features - self.mean) / self.deviation
        outputs: Floats = standardized @ self.coefficients.T + self.intercepts
        return outputs


@on_one_core()
def fit_probe(
    form: ProbeForm,
    features: Features,
    targets: Targets,
    groups: Sequence[object],
    outputs: int,
    seed: int,
) -> Fitted[Probe]:
    """Choose the strength in folds within the rows, and fit with it.

    Rows of one group stay in one fold. The same rows and seed give the same probe.
    """
    searched, units = drawn(len(targets), SEARCH_ROWS, seed), units_of(groups)
    sign = -1 if form.lower_is_better else 1

    def in_fold(_: str, train: Integers, held: Integers) -> Callable[[float], Floats]:
        return lambda strength: form.tell(
            _fitted(form, features[train], targets[train], outputs, strength).outputs(
                features[held]
            )
        )

    chosen = search(
        [Baseline.PROBE.value],
        form.strengths,
        [
            (searched[train], searched[held])
            for train, held in form.folds(targets[searched], units[searched], seed)
        ],
        default=(Baseline.PROBE.value, form.strengths[1]),
        fit=in_fold,
        score=lambda rows, told: sign * form.figure(targets[rows], np.concatenate(told)),
    )
    return Fitted(
        baseline=_fitted(form, features, targets, outputs, chosen.strength),
        settings={
            form.symbol: f"{chosen.strength:g}",
            "folds": str(chosen.folds),
            "rows": str(len(targets)),
        },
        cross_validated=None if chosen.score is None else sign * chosen.score,
    )


def _fitted(
    form: ProbeForm, features: Features, targets: Targets, outputs: int, strength: float
) -> Probe:
    scale = StandardScaler().fit(features)
    learned = form.learn(scale.transform(features), targets, strength, outputs)
    return Probe(
        mean=scale.mean_,
        deviation=scale.scale_,
        coefficients=learned[0],
        intercepts=learned[1],
    )


def save_probe(probe: Probe, folder: Path) -> None:
    """Write it as safetensors.

    Raises
    ------
    OSError
        If the disk fails.
    """
    arrays = {
        "mean": probe.mean,
        "deviation": probe.deviation,
        "coef": probe.coefficients,
        "intercept": probe.intercepts,
    }
    save_arrays(arrays, folder / _FILE)


def load_probe(folder: Path) -> Probe:
    """Read what ``save_probe`` wrote: the same outputs for the same features.

    Raises
    ------
    DataError
        If it is missing.
    StorageError
        If it can't be read.
    """
    with reading_baselines(folder):
        arrays = load_file(folder / _FILE)
    return Probe(
        mean=arrays["mean"],
        deviation=arrays["deviation"],
        coefficients=arrays["coef"],
        intercepts=arrays["intercept"],
    )
