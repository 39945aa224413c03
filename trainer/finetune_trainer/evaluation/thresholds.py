"""From which probability on a label is told: as the manifest says, or tuned on the select rows.

Pure. Tuned is macro F1: of several labels each one's F1 for itself, of two classes that of both.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluation.metrics import Floats

HALF = 0.5
TUNE = "tune"
FEWEST_ROWS = 10
"""With fewer select rows that have a label, or that don't, its threshold stays a half."""

Flags = NDArray[np.bool_]
Score = Callable[[Floats, Floats, Floats, Floats], Floats]


def f1(hits: Floats, told: Floats, there: Floats, rows: Floats) -> Floats:  # noqa: ARG001
    """F1 of those that are told, from counts."""
    return 2 * hits / np.maximum(told + there, 1)


def mean_f1(hits: Floats, told: Floats, there: Floats, rows: Floats) -> Floats:
    """Mean F1 of those that are told and of those that are not."""
    silent = rows - told - there + hits
    return (f1(hits, told, there, rows) + f1(silent, rows - told, rows - there, rows)) / 2


def threshold(asked: str, probabilities: Floats, truth: Flags, score: Score) -> float:
    """The threshold of one label; probabilities and truth are those of the select rows, ``[n]``.

    Of all cuts between neighboring probabilities the best, in a tie the one nearest to a half.
    """
    if asked != TUNE:
        return float(asked)
    having = int(truth.sum())
    if min(having, len(truth) - having) < FEWEST_ROWS:
        return HALF
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], truth[order].cumsum().astype(np.float64)
    # After its last row of equal ones, each cut tells all rows down to there.
    last = np.append(ranked[:-1] != ranked[1:], False)
    cuts = (ranked[:-1] + ranked[1:])[last[:-1]] / 2
    told = np.arange(1, len(ranked) + 1, dtype=np.float64)[last]
    cuts, told, hits = np.append(cuts, HALF), np.append(told, (ranked >= HALF).sum()), hits[last]
    hits = np.append(hits, truth[probabilities >= HALF].sum())
    there, rows = np.full(len(cuts), float(having)), np.full(len(cuts), float(len(truth)))
    scores = score(hits, told, there, rows)
    best = np.flatnonzero(scores >= scores.max() - 1e-12)
    return float(cuts[best[np.abs(cuts[best] - HALF).argmin()]])
