"""The figures of a report that come from the test rows alone, whatever the task. Pure."""

from dataclasses import dataclass

from finetune_api.report import BaselineScores, ClassScores, Metrics


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the model is measured to be, and its baselines on the same rows.

    ``per_class`` and ``confusion_matrix`` are empty for a task that has no such thing.
    """

    metrics: Metrics
    per_class: tuple[ClassScores, ...] = ()
    confusion_matrix: tuple[tuple[int, ...], ...] = ()
    baselines: tuple[BaselineScores, ...] = ()
