"""Training rows whose target a baseline that never saw them doubts. Pure, but for the file.

The baseline's search holds each row out once; what it says of it there is held against what the row
has. Classes are judged by confident learning's rule (Northcutt, Jiang and Chuang, "Confident
Learning: Estimating Uncertainty in Dataset Labels", JAIR 2021), numbers by the modified z-score of
their residuals (Iglewicz and Hoaglin 1993). Reported, and nothing is taken out: what looks wrong to
a baseline may be what a model is needed for.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune_api.datareport import SuspectPair, Suspects
from finetune_api.tasks import Baseline
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.search import Fitted
from finetune_trainer.evaluation.thresholds import Flags

FARTHEST_SCORE = 3.5
"""Residuals with a larger modified z-score are suspect, as its authors have it."""
_MAD_OF_NORMAL = 0.6745
MOST_PAIRS = 20
MOST_EXAMPLES = 10
_COLUMNS = ("row_id", "has", "likely", "doubt")


@dataclass(frozen=True, slots=True)
class Doubt:
    """One suspect target of a row, by the row's place; the greater, the more suspect.

    ``has`` is the row's target and ``likely`` the baseline's. Of several labels one of them is
    unset: a row ``has`` a label that it likely lacks, or lacks one that it ``likely`` has.
    """

    place: int
    has: str | None
    likely: str | None
    doubt: float


@dataclass(frozen=True, kw_only=True)
class Doubts:
    """Every suspect target, the most suspect first; ``ids`` are of all rows that were looked at."""

    baseline: Baseline
    ids: Sequence[str]
    found: tuple[Doubt, ...]

    def report(self, *, named: bool) -> Suspects:
        """What the data report says: counts, a few ids, and pairs of targets that are names."""
        rows = list(dict.fromkeys(self.ids[one.place] for one in self.found))
        pairs = Counter((one.has, one.likely) for one in self.found if named)
        most = sorted(pairs.items(), key=lambda pair: (-pair[1], str(pair[0])))
        return Suspects(
            baseline=self.baseline,
            looked_at=len(self.ids),
            rows=len(rows),
            pairs=tuple(
                SuspectPair(has=has, likely=likely, rows=count)
                for (has, likely), count in most[:MOST_PAIRS]
            ),
            examples=tuple(rows[:MOST_EXAMPLES]),
        )

    def write(self, path: Path) -> None:
        """Write a CSV with a line for each suspect target; of the rows it has ids and no inputs.

        Raises
        ------
        OSError
            If the disk fails.
        """
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for one in self.found:
                likely = (one.has or "", one.likely or "", f"{one.doubt:.4f}")
                table.writerow((self.ids[one.place], *likely))


def class_doubts(names: Sequence[str], labels: Integers, probabilities: Floats) -> Iterator[Doubt]:
    """Rows that are likelier of another class; ``labels`` ``[n]``, ``probabilities`` ``[n, K]``.

    A class's threshold is the mean probability that rows which have it get for it. A row is suspect
    if another class reaches its own threshold and the row's does not. The doubt is by how much the
    likeliest such class's probability is above that of the row's.
    """
    rows = np.arange(len(labels))
    own = probabilities[rows, labels]
    counts = np.bincount(labels, minlength=len(names))
    sums = np.bincount(labels, weights=own, minlength=len(names))
    # A class that no row has can't be told to be likely.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reaching = np.where(probabilities >= thresholds, probabilities, -1.0)
    likely = reaching.argmax(axis=1)
    suspect = (own < thresholds[labels]) & (reaching[rows, likely] >= 0)
    for row in np.flatnonzero(suspect).tolist():
        doubt = float(reaching[row, likely[row]] - own[row])
        yield Doubt(row, names[labels[row]], names[likely[row]], doubt)


def label_doubts(names: Sequence[str], truth: Flags, probabilities: Floats) -> Iterator[Doubt]:
    """The same rule for each label, of two classes: to have it, or not. Both are ``[n, K]``."""
    for place, name in enumerate(names):
        having = probabilities[:, place]
        both = np.stack([1.0 - having, having], axis=1)
        for one in class_doubts(("", name), truth[:, place].astype(np.int64), both):
            yield Doubt(one.place, one.has or None, one.likely or None, one.doubt)


def number_doubts(truth: Floats, told: Floats) -> Iterator[Doubt]:
    """Rows whose residual is far from the others', in units of their median deviation.

    The doubt is the size of the modified z-score, 0.6745 · (r - median) / MAD. Where more than half
    of the residuals are the same there is no such unit, and no row is suspect.
    """
    residuals = truth - told
    gaps = residuals - np.median(residuals) if len(residuals) else residuals
    deviation = float(np.median(np.abs(gaps))) if len(gaps) else 0.0
    if deviation == 0.0:
        return
    scores = _MAD_OF_NORMAL * np.abs(gaps) / deviation
    for row in np.flatnonzero(scores > FARTHEST_SCORE).tolist():
        yield Doubt(row, f"{truth[row]:.6g}", f"{told[row]:.6g}", float(scores[row]))


def doubts(
    fitted: Fitted[Any],  # any baseline
    ids: Sequence[str],
    judge: Callable[[Integers, Floats], Iterable[Doubt]],
) -> Doubts | None:
    """What a baseline doubts of the rows that its search held out; None where it held out none.

    ``ids`` are of all training rows; ``judge`` is given the rows that were held out, and what was
    said of them.
    """
    if fitted.unseen is None:
        return None
    rows = fitted.unseen.rows
    found = judge(rows, fitted.unseen.told)
    return Doubts(
        baseline=fitted.baseline.name,
        ids=[ids[row] for row in rows],
        found=tuple(sorted(found, key=lambda one: (-one.doubt, one.place))),
    )
