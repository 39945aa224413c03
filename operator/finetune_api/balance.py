"""FineTuneJob.spec.training.classWeights and sampling: what is done where classes are rare."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import Field

from finetune_api.markers import Cel, Contract, ShortText, rules


class Sampling(StrEnum):
    """How an epoch's rows are drawn."""

    SHUFFLE = "shuffle"
    BALANCED = "balanced"


@rules(
    Cel(
        "self.balanced != (self.weights.size() > 0)",
        "training.classWeights: set balanced: true, or weights, and not both",
    )
)
class ClassWeights(Contract):
    """What a row (of token-classification: a word) weighs in the loss, by its class."""

    balanced: Annotated[
        bool,
        Field(
            description="Each class weighs as much as any other: rows / (classes × rows of the "
            "class), counted over the training rows (of token-classification: over words and tags)."
        ),
    ] = False
    weights: Annotated[
        dict[ShortText, Annotated[float, Field(gt=0, le=10_000)]],
        Field(max_length=200, description="Weights by label; a label that is not named weighs 1."),
    ] = Field(default_factory=dict, json_schema_extra={"default": {}})

    def of(self, labels: Sequence[str], counts: Mapping[str, int]) -> tuple[float, ...]:
        """The weight of each label, in their order; ``counts`` are those of the training rows.

        A label that the training rows don't have weighs 1, for it weighs nothing anyway. The
        formula is scikit-learn's (King and Zeng 2001).
        """
        if not self.balanced:
            return tuple(self.weights.get(label, 1.0) for label in labels)
        seen = [label for label in labels if counts[label]]
        total = sum(counts[label] for label in seen)
        return tuple(
            total / (len(seen) * counts[label]) if counts[label] else 1.0 for label in labels
        )


class Balancing(Protocol):
    """The settings of a training, as written or as resolved."""

    @property
    def class_weights(self) -> ClassWeights | None:
        """What classes weigh."""

    @property
    def sampling(self) -> Sampling:
        """How rows are drawn."""


def uncalibrated(training: Balancing) -> str:
    """What is to be known of the probabilities of a model that was trained so; mostly nothing."""
    if training.class_weights is None and training.sampling is Sampling.SHUFFLE:
        return ""
    how = "class weights" if training.class_weights is not None else "balanced sampling"
    return (
        f"It was trained with {how}: its probabilities are those of classes so mixed, not of the "
        "classes as frequent as they are in the data. Calibrate them before they are used as such."
    )
