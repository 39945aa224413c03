"""What a classifier of images must beat: the majority, and a regression on simple features.

Of features there are two: the pixels of a small copy, and histograms of oriented gradients (HOG:
Dalal and Triggs, CVPR 2005), which say where edges run. Folds within the training rows choose
between them, and how much the regression is held back.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from finetune_api.tasks import Baseline as BaselineName
from finetune_trainer.data.pixels import Pixels
from finetune_trainer.evaluation.baselines import (
    Floats,
    Integers,
    Majority,
    by_class,
    class_probabilities,
    load_majority,
    save_majority,
    share_right,
)
from finetune_trainer.evaluation.search import (
    Choice,
    Fitted,
    Folds,
    Unseen,
    class_folds,
    on_one_core,
    search,
    units_of,
    unseen_by,
)
from finetune_trainer.evaluation.stored import reading_baselines, save_arrays
from finetune_trainer.evaluation.tfidf import drawn

SEARCH_ROWS = 4000
"""Cross-validation looks at no more rows than this, drawn at random: it ranks settings only."""

FIT_ROWS = 20_000
"""The fit takes no more than this: features are dense, and time and memory are finite."""

_STRENGTHS = (0.001, 0.01, 0.1, 1.0)
_ITERATIONS = 200
_COLOR_SIDE = 12
_GRAY_SIDE = 32
_CELL_SIDE = 4
_ANGLES = 9
_BLOCK = 2
_SMALLEST = 1e-6
_FILE = "pixels.safetensors"

Features = NDArray[np.float32]
"""``[rows, features]``."""


def pixel_features(image: Pixels) -> Features:
    """Red, green and blue of a copy of 12 × 12 pixels, as one line."""
    small = _image(image).resize((_COLOR_SIDE, _COLOR_SIDE), Image.Resampling.BOX)
    scaled: Features = np.asarray(small, dtype=np.float32).ravel() / np.float32(255)
    return scaled


def gradient_features(image: Pixels) -> Features:
    """Histograms of oriented gradients of a gray copy of 32 × 32 pixels, as one line.

    Cells of 4 × 4 pixels, nine unsigned angles, blocks of 2 × 2 cells normalized to length 1.
    """
    side = _GRAY_SIDE
    gray = _image(image).convert("L").resize((side, side), Image.Resampling.BILINEAR)
    down, across = np.gradient(np.asarray(gray, dtype=np.float32) / 255)
    strength = np.hypot(down, across)
    turn = np.arctan2(down, across) / np.pi % 1.0 * _ANGLES
    lower = np.floor(turn).astype(np.int64)
    share = turn - lower
    cells = np.zeros((side // _CELL_SIDE, side // _CELL_SIDE, _ANGLES), dtype=np.float32)
    rows, columns = np.indices((side, side)) // _CELL_SIDE
    np.add.at(cells, (rows, columns, lower % _ANGLES), strength * (1 - share))
    np.add.at(cells, (rows, columns, (lower + 1) % _ANGLES), strength * share)
    blocks = np.lib.stride_tricks.sliding_window_view(cells, (_BLOCK, _BLOCK), axis=(0, 1))
    lines = blocks.reshape(-1, _ANGLES * _BLOCK * _BLOCK)
    lengths = np.linalg.norm(lines, axis=1, keepdims=True)
    normalized: Features = (lines / (lengths + _SMALLEST)).ravel()
    return normalized


_FEATURES = {"pixels": pixel_features, "gradients": gradient_features}


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))


@dataclass(frozen=True)
class PixelLogistic:
    """A logistic regression on standardized features of images.

    ``coefficients`` is ``[known classes, features]``, of the classes that the fitted rows had.
    """

    features: str
    classes: int
    known: Integers
    mean: Floats
    deviation: Floats
    coefficients: Floats
    intercepts: Floats
    name: BaselineName = BaselineName.PIXELS

    def predict_proba(self, images: Iterable[Pixels]) -> Floats:
        """Probabilities ``[rows, classes]``; 0 for a class that the fitted rows did not have."""
        lines = _described(images, self.features)
        logits = ((lines - self.mean) / self.deviation) @ self.coefficients.T + self.intercepts
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        probabilities = np.zeros((len(lines), self.classes))
        probabilities[:, self.known] = odds / odds.sum(axis=1, keepdims=True)
        return probabilities


def _described(images: Iterable[Pixels], features: str) -> Features:
    return np.stack([_FEATURES[features](image) for image in images])


@on_one_core()
def fit_image_baselines(
    images: Sequence[Pixels], labels: Integers, groups: Sequence[object], seed: int
) -> tuple[Fitted[Majority], Fitted[PixelLogistic]]:
    """Fit majority and features on the training rows.

    ``labels`` are class numbers from 0 without gaps; rows of one group stay in one fold. The same
    rows and seed give the same baselines. ``images`` are read one by one, and may lie on disk.
    """
    shares = np.bincount(labels) / len(labels)
    searched = drawn(len(labels), SEARCH_ROWS, seed)
    folds = class_folds(labels[searched], units_of(groups)[searched], seed)
    chosen = _search([images[row] for row in searched], labels[searched], len(shares), folds)
    unseen = unseen_by(chosen)
    fit = drawn(len(labels), FIT_ROWS, seed)
    lines = _described((images[row] for row in fit), chosen.features)
    scale, classifier = _fitted(lines, labels[fit], chosen.strength)
    coefficients, intercepts = by_class(classifier)
    return (
        Fitted(baseline=Majority(tuple(shares.tolist())), cross_validated=float(shares.max())),
        Fitted(
            baseline=PixelLogistic(
                features=chosen.features,
                classes=len(shares),
                known=np.asarray(classifier.classes_, dtype=np.int64),
                mean=scale.mean_,
                deviation=scale.scale_,
                coefficients=coefficients,
                intercepts=intercepts,
            ),
            settings={
                "features": chosen.features,
                "C": f"{chosen.strength:g}",
                "folds": str(chosen.folds),
                "rows": str(len(fit)),
            },
            cross_validated=chosen.score,
            unseen=None if unseen is None else Unseen(searched[unseen.rows], unseen.told),
        ),
    )


def _search(
    images: Sequence[Pixels], labels: Integers, classes: int, folds: Folds
) -> Choice[str, Floats]:
    described = {features: _described(images, features) for features in _FEATURES} if folds else {}

    def fit(features: str, train: Integers, held: Integers) -> Callable[[float], Floats]:
        lines = described[features]

        def told(strength: float) -> Floats:
            scale, classifier = _fitted(lines[train], labels[train], strength)
            return class_probabilities(classifier, scale.transform(lines[held]), classes)

        return told

    return search(
        list(_FEATURES),
        _STRENGTHS,
        folds,
        default=("pixels", 0.01),
        fit=fit,
        score=lambda rows, told: share_right(labels[rows], told),
    )


def _fitted(lines: Features, labels: Integers, strength: float) -> tuple[Any, Any]:
    """Scale and regression of scikit-learn, which has no types."""
    scale = StandardScaler().fit(lines)
    classifier = LogisticRegression(C=strength, max_iter=_ITERATIONS)
    return scale, classifier.fit(scale.transform(lines), labels)


def save_image_baselines(majority: Majority, pixels: PixelLogistic, folder: Path) -> None:
    """Write the baselines as JSON and safetensors; nothing in them runs when it is read.

    Raises
    ------
    OSError
        If the disk fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_majority(majority, folder)
    arrays = {
        "known": pixels.known,
        "mean": pixels.mean,
        "deviation": pixels.deviation,
        "coef": pixels.coefficients,
        "intercept": pixels.intercepts,
    }
    save_arrays(arrays, folder / _FILE, metadata={"features": pixels.features})


def load_image_baselines(folder: Path) -> tuple[Majority, PixelLogistic]:
    """Read what ``save_image_baselines`` wrote: the same probabilities for the same images.

    Raises
    ------
    DataError
        If a file is missing.
    StorageError
        If one can't be read.
    """
    with reading_baselines(folder):
        majority = load_majority(folder)
        arrays = load_file(folder / _FILE)
        with safe_open(folder / _FILE, framework="numpy") as file:
            features = str(file.metadata()["features"])
    return majority, PixelLogistic(
        features=features,
        classes=len(majority.shares),
        known=arrays["known"],
        mean=arrays["mean"],
        deviation=arrays["deviation"],
        coefficients=arrays["coef"],
        intercepts=arrays["intercept"],
    )
