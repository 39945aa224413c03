"""The head that each task puts on a model: the class that loads it, and what its config says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoModelForSequenceClassification, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from finetune_api.tasks import Task

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head of transformers.

    ``auto`` is the class that loads a model with it, ``architectures`` the model types that have
    it, each with its class's name; ``suffix`` is what those names have in common.
    """

    task: Task
    auto: Any  # an Auto class of transformers, which share no type
    architectures: Mapping[str, str]
    suffix: str
    problem_type: ProblemType | None

    def settle(self, config: PreTrainedConfig, labels: tuple[str, ...]) -> None:
        """Write into a configuration what its outputs are, so that no reader has to guess."""
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        config.problem_type = self.problem_type


REGRESSION = Head(
    task=Task.TEXT_REGRESSION,
    auto=AutoModelForSequenceClassification,
    architectures=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    suffix="ForSequenceClassification",
    problem_type="regression",
)

MULTI_LABEL = Head(
    task=Task.MULTI_LABEL_CLASSIFICATION,
    auto=AutoModelForSequenceClassification,
    architectures=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    suffix="ForSequenceClassification",
    problem_type="multi_label_classification",
)

SINGLE_LABEL = Head(
    task=Task.TEXT_CLASSIFICATION,
    auto=AutoModelForSequenceClassification,
    architectures=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    suffix="ForSequenceClassification",
    problem_type="single_label_classification",
)
