"""Figures of a classifier on labeled rows: pure functions of counts and probabilities.

Whatever a confusion matrix determines is computed from it, for one matrix or for a stack of them
at once: the bootstrap of ``intervals`` calls the same functions as the report's point values.
"""

import numpy as np
from numpy.typing import NDArray

from finetune_api.evaluationreport import ClassScores, ReliabilityBin

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CALIBRATION_BINS = 15


def confusion_matrix(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """Count rows by true class (rows of the matrix) and predicted class (columns)."""
    cells = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes).astype(np.int64)


def accuracy(confusions: NDArray[np.generic]) -> Floats:
    """Share of rows on the diagonal; ``confusions`` is ``[..., K, K]``, the result ``[...]``."""
    right = np.trace(confusions, axis1=-2, axis2=-1)
    return _ratio(right, confusions.sum(axis=(-2, -1)))


def error_rate(confusions: NDArray[np.generic]) -> Floats:
    """Share of rows off the diagonal; exact where ``1 - accuracy`` would round."""
    total = confusions.sum(axis=(-2, -1))
    return _ratio(total - np.trace(confusions, axis1=-2, axis2=-1), total)


def balanced_accuracy(confusions: NDArray[np.generic]) -> Floats:
    """Mean recall over the classes that have rows."""
    support = confusions.sum(axis=-1)
    recall = _ratio(_diagonal(confusions), support)
    return _ratio(recall.sum(axis=-1), (support > 0).sum(axis=-1))


def macro_f1(confusions: NDArray[np.generic]) -> Floats:
    """Mean F1 over the classes that have rows or predictions; a class never hit counts as 0."""
    involved = confusions.sum(axis=-1) + confusions.sum(axis=-2)
    f1 = _ratio(2 * _diagonal(confusions), involved)
    return _ratio(f1.sum(axis=-1), (involved > 0).sum(axis=-1))


def matthews(confusions: NDArray[np.generic]) -> Floats:
    """Matthews correlation for K classes, the R_K of Gorodkin 2004.

    0 where labels or predictions are all of one class: a constant carries no correlation.
    """
    counts = confusions.astype(np.float64)
    total = counts.sum(axis=(-2, -1))
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    covariance = np.trace(counts, axis1=-2, axis2=-1) * total - (true * predicted).sum(axis=-1)
    variances = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (true**2).sum(axis=-1))
    return _ratio(covariance, np.sqrt(np.maximum(variances, 0.0)))


def class_scores(confusion: Integers, names: tuple[str, ...]) -> tuple[ClassScores, ...]:
    """Precision, recall, F1 and support of each class; 0 where a denominator is empty."""
    hits, true, predicted = _diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    f1 = _ratio(2 * hits, true + predicted)
    return tuple(
        ClassScores(
            label=name,
            precision=float(precision[index]),
            recall=float(recall[index]),
            f1=float(f1[index]),
            support=int(true[index]),
        )
        for index, name in enumerate(names)
    )


def log_probabilities(logits: NDArray[np.floating]) -> Floats:
    """Log-softmax over the classes, ``[n, K]``, in double precision."""
    shifted: Floats = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def negative_log_likelihood(log_probability: Floats, labels: Integers) -> Floats:
    """-log p(true class) of each row, in nats."""
    result: Floats = -log_probability[np.arange(len(labels)), labels]
    return result


def brier_score(probabilities: Floats, labels: Integers) -> Floats:
    """Squared distance of each row to the true class's corner, summed over classes: 0 to 2.

    Brier 1950 as written, for two classes as for more (half of it is the binary short form).
    """
    distance = probabilities.copy()
    distance[np.arange(len(labels)), labels] -= 1.0
    result: Floats = (distance**2).sum(axis=1)
    return result


def reliability(
    probabilities: Floats, labels: Integers, bins: int = CALIBRATION_BINS
) -> tuple[ReliabilityBin, ...]:
    """Rows by their top probability, in bins of equal mass, the least sure first.

    Equal confidences share a bin, so that nothing depends on the order of the rows.
    """
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    ranks = np.linspace(0, 1, bins + 1)[1:-1]
    edges = np.quantile(confidence, ranks, method="inverted_cdf")
    place = np.searchsorted(edges, confidence, side="left")
    rows = np.bincount(place)
    sums = (np.bincount(place, weights=values) for values in (confidence, right))
    return tuple(
        ReliabilityBin(confidence=min(sure / count, 1.0), accuracy=hits / count, rows=count)
        for count, sure, hits in zip(rows.tolist(), *(one.tolist() for one in sums), strict=True)
        if count
    )


def expected_calibration_error(
    probabilities: Floats, labels: Integers, bins: int = CALIBRATION_BINS
) -> float:
    """Mean gap between the top probability and the accuracy, weighted over bins of equal mass.

    Naeini et al. 2015 with quantile bins.
    """
    found = reliability(probabilities, labels, bins)
    return sum(one.rows * abs(one.confidence - one.accuracy) for one in found) / len(labels)


def _diagonal(confusions: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.diagonal(confusions, axis1=-2, axis2=-1)


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """``part / whole``, and 0 where the whole is empty."""
    numerator = np.asarray(part, dtype=np.float64)
    denominator = np.asarray(whole, dtype=np.float64)
    result: Floats = np.divide(
        numerator,
        denominator,
        out=np.zeros(np.broadcast_shapes(numerator.shape, denominator.shape)),
        where=denominator != 0,
    )
    return result
