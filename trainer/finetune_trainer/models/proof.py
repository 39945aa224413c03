"""What an exported model has to answer in a plain pipeline, and how its answers are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.metrics import Floats

TOLERANCE = 1e-5


class ExportError(TrainerError):
    """A plain pipeline reads the exported model otherwise than it was scored."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """How a user would call the model: ``pipeline(task, model, **settings)(inputs, **call)``."""

    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)  # keywords of transformers
    call: Mapping[str, Any] = field(default_factory=dict)

    @property
    def processor(self) -> str:
        """What it calls that which turns inputs into the model's."""
        return "image_processor" if self.task.startswith("image-") else "tokenizer"


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Test rows that the exported model has to score again.

    ``device`` is the kind that scored them, and has to score them again. ``compare`` is given one
    answer for each input, as JSON has it, and raises ``ExportError`` if one is another.
    """

    pipeline: Pipeline
    inputs: Sequence[Any]  # what the pipeline takes, as JSON
    compare: Callable[[Sequence[Any]], None]
    device: str


def compare_classes(
    names: Sequence[str], expected: Floats, answers: Sequence[list[dict[str, Any]]]
) -> None:
    """Hold a pipeline's answers to the probabilities that were scored, ``[n, K]`` by ``names``.

    Raises
    ------
    ExportError
        If classes, labels or probabilities differ; the message has the figures.
    """
    for answer in answers:
        if sorted(str(one["label"]) for one in answer) != sorted(names):
            raise ExportError(
                f"a plain pipeline names the classes {[one['label'] for one in answer]}, "
                f"the data {list(names)}"
            )
    found = np.array(
        [
            [{one["label"]: one["score"] for one in answer}[name] for name in names]
            for answer in answers
        ],
        dtype=np.float64,
    )
    gap = float(np.abs(found - expected).max())
    # Where two classes are as good as equal, either may come first.
    chosen = expected[np.arange(len(expected)), found.argmax(axis=1)]
    other = int((chosen < expected.max(axis=1) - TOLERANCE).sum())
    if gap > TOLERANCE or other:
        raise ExportError(
            f"a plain pipeline gives other answers than were scored: {other} of {len(expected)} "
            f"labels differ, probabilities by up to {gap:.2e} (allowed: {TOLERANCE:.0e})"
        )


def compare_numbers(expected: Floats, answers: Sequence[Mapping[str, Any]]) -> None:
    """Hold a pipeline's answers to the numbers that were scored, ``[n]``.

    What rounding may do grows with the numbers, so the tolerance is of the largest one.

    Raises
    ------
    ExportError
        If they differ; the message has the figures.
    """
    found = np.array([answer["score"] for answer in answers], dtype=np.float64)
    gap = float(np.abs(found - expected).max())
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if gap > allowed:
        raise ExportError(
            f"a plain pipeline gives other numbers than were scored: they differ by up to "
            f"{gap:.2e} (allowed: {allowed:.0e})"
        )


def compare_texts(expected: Sequence[str], answers: Sequence[list[dict[str, Any]]]) -> None:
    """Hold the texts that a pipeline generates to those that the scored model does.

    Raises
    ------
    ExportError
        If one is another; the message counts them, and never quotes one.
    """
    other = sum(
        answer[0]["generated_text"] != text for text, answer in zip(expected, answers, strict=True)
    )
    if other:
        raise ExportError(
            f"a plain pipeline gives other answers than the scored model: {other} of "
            f"{len(expected)} texts differ"
        )


@dataclass(frozen=True)
class TokenAnswer:
    """What is told of the token at ``place``: its tag, and the probability of that one."""

    place: int
    tag: str
    probability: float


def compare_tags(
    expected: Sequence[Sequence[TokenAnswer]], answers: Sequence[Sequence[Mapping[str, Any]]]
) -> None:
    """Hold what a pipeline tells of single tokens to what was scored; of others it may tell more.

    Where two tags are as good as equal, either may come first.

    Raises
    ------
    ExportError
        If tags or probabilities differ; the message has the figures.
    """
    gap, other, tokens = 0.0, 0, 0
    for row, answer in zip(expected, answers, strict=True):
        told = {int(one["index"]): one for one in answer}
        for ours in row:
            theirs = told.get(ours.place, {"entity": None, "score": 0.0})
            distance = abs(float(theirs["score"]) - ours.probability)
            gap, tokens = max(gap, distance), tokens + 1
            other += theirs["entity"] != ours.tag and not distance <= TOLERANCE
    if gap > TOLERANCE or other:
        raise ExportError(
            f"a plain pipeline gives other tags than were scored: {other} of {tokens} differ, "
            f"probabilities by up to {gap:.2e} (allowed: {TOLERANCE:.0e})"
        )
