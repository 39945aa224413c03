"""What each class weighs in the loss. ``prepare`` asks whether it exists, ``train`` what it is."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from finetune_api.balance import ClassWeights
from finetune_trainer.errors import UsageError


def require_known(stated: ClassWeights | None, labels: Sequence[str]) -> None:
    """Every label that is given a weight has to be one of the model's outputs.

    Raises
    ------
    UsageError
        Naming the first that is not.
    """
    unknown = sorted(set(stated.weights) - set(labels)) if stated is not None else []
    if unknown:
        raise UsageError(
            f"training.classWeights.weights: {unknown[0]!r} is none of the labels; they are "
            f"{', '.join(labels[:30])}"
        )


def class_weights(
    stated: ClassWeights, labels: Sequence[str], classes: npt.NDArray[np.int64]
) -> tuple[float, ...]:
    """The weight of each label; ``classes`` are the numbers of the training set's.

    Raises
    ------
    UsageError
        As ``require_known`` does.
    """
    require_known(stated, labels)
    counts = np.bincount(classes, minlength=len(labels)).tolist()
    return stated.of(labels, dict(zip(labels, counts, strict=True)))
