"""Which settings a baseline does best with on rows that it was not fitted on. Pure.

Every baseline that is fitted is searched for so: each of its features with each strength of its
regression, in folds within the training rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from finetune_api.datareport import BaselineFit
from finetune_api.evaluationreport import Metrics
from finetune_api.tasks import Baseline, Metric

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Folds = Sequence[tuple[Integers, Integers]]
"""The rows to fit on, and those that are held out."""

FOLDS = 5

F = TypeVar("F")
A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class Choice(Generic[F, A]):
    """What a search ended with; without folds it is the default, unmeasured.

    ``told`` is what it said of the ``held`` rows of each fold, fitted on the others.
    """

    features: F
    strength: float
    score: float | None
    folds: int
    held: Integers
    told: tuple[A, ...]


@dataclass(frozen=True)
class Unseen:
    """What a baseline said of ``rows``, each time fitted without them: ``[n, …]``."""

    rows: Integers
    told: Floats


def unseen_by(choice: Choice[F, Floats]) -> Unseen | None:
    """The rows that folds held out; None without folds."""
    return Unseen(choice.held, np.concatenate(choice.told)) if choice.told else None


class Named(Protocol):
    """Any baseline."""

    @property
    def name(self) -> Baseline:
        """How reports and gates call it."""


B = TypeVar("B", bound=Named)


@dataclass(frozen=True, kw_only=True)
class Fitted(Generic[B]):
    """A baseline with what folds within the training rows chose, and how that did there."""

    baseline: B
    settings: dict[str, str] = field(default_factory=dict)
    cross_validated: float | None
    unseen: Unseen | None = None

    def report(self, headline: Metric, metrics: Metrics) -> BaselineFit:
        """What the prepare step says of it; ``metrics`` are those on the select rows."""
        return BaselineFit(
            name=self.baseline.name,
            settings=self.settings,
            cross_validated=self.cross_validated,
            select=metrics[headline].value,
            metrics=metrics,
        )


@contextmanager
def on_one_core() -> Iterator[None]:
    """Compute products of dense features on one core within the block.

    A fit is a thousand small products. Threads meet after each of them, and beside other work each
    time wait for a core that is taken: that costs many times what they save.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def search(
    features: Sequence[F],
    strengths: Sequence[float],
    folds: Folds,
    *,
    default: tuple[F, float],
    fit: Callable[[F, Integers, Integers], Callable[[float], A]],
    score: Callable[[Integers, list[A]], float],
) -> Choice[F, A]:
    """Try every setting in every fold; the highest score wins, in a tie what was tried first.

    ``fit`` is for features, the rows to fit on and those held out: it answers, for a strength, what
    is said of the latter. ``score`` is for the rows held out, of all folds, and what was said of
    those of each fold.
    """
    if not folds:
        return Choice(
            features=default[0],
            strength=default[1],
            score=None,
            folds=0,
            held=np.zeros(0, dtype=np.int64),
            told=(),
        )
    held = np.concatenate([rows for _, rows in folds])
    best: Choice[F, A] | None = None
    for own in features:
        said: dict[float, list[A]] = {strength: [] for strength in strengths}
        for train, unseen in folds:
            answer = fit(own, train, unseen)
            for strength in strengths:
                said[strength].append(answer(strength))
        for strength in strengths:
            reached = score(held, said[strength])
            if best is None or best.score is None or reached > best.score:
                best = Choice(
                    features=own,
                    strength=strength,
                    score=reached,
                    folds=len(folds),
                    held=held,
                    told=tuple(said[strength]),
                )
    assert best is not None
    return best


def units_of(groups: Sequence[object]) -> Integers:
    """The groups of rows as numbers."""
    return np.unique(np.asarray([str(group) for group in groups]), return_inverse=True)[1]


def clusters_of(groups: Sequence[str | None]) -> Integers | None:
    """The group column's value of each row as a number; None where rows stand for themselves."""
    return None if None in groups else units_of(groups)


def group_folds(units: Integers, seed: int, most: int = FOLDS) -> Folds:
    """Folds that share no unit; none of a single unit."""
    number = min(most, len(np.unique(units)))
    if number < 2:
        return []
    return list(
        GroupKFold(n_splits=number, shuffle=True, random_state=seed).split(units, None, units)
    )


def class_folds(targets: Integers, units: Integers, seed: int) -> Folds:
    """Folds that share no unit, each with every class to learn from; none if there are too few."""
    per_class = [len(np.unique(units[targets == number])) for number in np.unique(targets)]
    number = min(FOLDS, *per_class)
    if number < 2 or len(per_class) < 2:
        return []
    cut = StratifiedGroupKFold(n_splits=number, shuffle=True, random_state=seed)
    return [
        (train, held)
        for train, held in cut.split(targets, targets, units)
        if len(held) and len(np.unique(targets[train])) == len(per_class)
    ]
