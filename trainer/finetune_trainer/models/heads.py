"""The head that each task puts on a model: the class that loads it, and what its config says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
)

from finetune_api.tasks import Task

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head of transformers.

    ``auto`` is the class that loads a model with it, ``architectures`` the model types that have
    it, each with its class's name; ``suffix`` is what those names have in common. ``advice`` names
    models that have it. ``generates`` says that its outputs are the next token, of the tokenizer's,
    and not classes of the data's: no weight of such a model may be new. ``sees`` says that it reads
    images; as these models come with a head for ImageNet's classes, a head for other classes than
    the data's is replaced. ``reads_words`` says that it is given
    words, and answers for each token of theirs.
    """

    task: Task
    auto: Any  # an Auto class of transformers, which share no type
    architectures: Mapping[str, str]
    suffix: str
    advice: str
    problem_type: ProblemType | None = None
    generates: bool = False
    reads_words: bool = False
    sees: bool = False

    def settle(self, config: PreTrainedConfig, labels: tuple[str, ...]) -> None:
        """Write into a configuration what its outputs are, so that no reader has to guess."""
        if self.generates:
            return
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        config.problem_type = self.problem_type


_TEXT_MODELS = "a text encoder or decoder, such as bert, roberta, deberta-v2, modernbert or llama"

REGRESSION = Head(
    task=Task.TEXT_REGRESSION,
    auto=AutoModelForSequenceClassification,
    architectures=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    suffix="ForSequenceClassification",
    advice=_TEXT_MODELS,
    problem_type="regression",
)

MULTI_LABEL = Head(
    task=Task.MULTI_LABEL_CLASSIFICATION,
    auto=AutoModelForSequenceClassification,
    architectures=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    suffix="ForSequenceClassification",
    advice=_TEXT_MODELS,
    problem_type="multi_label_classification",
)

SINGLE_LABEL = Head(
    task=Task.TEXT_CLASSIFICATION,
    auto=AutoModelForSequenceClassification,
    architectures=MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    suffix="ForSequenceClassification",
    advice=_TEXT_MODELS,
    problem_type="single_label_classification",
)

TAGS = Head(
    task=Task.TOKEN_CLASSIFICATION,
    auto=AutoModelForTokenClassification,
    architectures=MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    suffix="ForTokenClassification",
    advice=_TEXT_MODELS,
    reads_words=True,
)

_SEEING = frozenset({"bert-generation", "xlnet"})
"""These look ahead unless told not to, as do all encoders with a head for masked words."""

CAUSAL = Head(
    task=Task.CAUSAL_LM,
    auto=AutoModelForCausalLM,
    # The library gives such a head to models that see the token to predict, too.
    architectures={
        model: name
        for model, name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
        if model not in MODEL_FOR_MASKED_LM_MAPPING_NAMES and model not in _SEEING
    },
    suffix="ForCausalLM",
    advice="a text decoder, such as llama, qwen2, mistral or gpt2",
    generates=True,
)

_NOT_WHOLE = frozenset({"clip", "metaclip_2", "perceiver", "siglip", "siglip2", "timm_wrapper"})
"""These are half of another model, or need another library."""

IMAGES = Head(
    task=Task.IMAGE_CLASSIFICATION,
    auto=AutoModelForImageClassification,
    architectures={
        # Of several classes the first one is that which the Auto class takes.
        model: name if isinstance(name, str) else name[0]
        for model, name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.items()
        if model not in _NOT_WHOLE
    },
    suffix="ForImageClassification",
    advice="a model of images, such as vit, resnet, convnext, swin or dinov2",
    problem_type="single_label_classification",
    sees=True,
)
