"""The architectures that each task is tested with: what `finetune models` shows, and tests go by.

Others that transformers has the task's head for are taken as well; nobody has tried them here.
"""

from collections.abc import Mapping

from finetune_api.tasks import Task

_ENCODERS = (
    "albert",
    "bert",
    "camembert",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "roberta",
    "xlm-roberta",
)
_DECODERS = ("gpt2", "llama", "mistral", "qwen2")
_OF_IMAGES = ("resnet", "vit")
_OF_TEXTS = (*_ENCODERS, *_DECODERS)

TESTED: Mapping[Task, tuple[str, ...]] = {
    Task.TEXT_CLASSIFICATION: _OF_TEXTS,
    Task.MULTI_LABEL_CLASSIFICATION: _OF_TEXTS,
    Task.TEXT_REGRESSION: _OF_TEXTS,
    Task.TOKEN_CLASSIFICATION: _OF_TEXTS,
    Task.CAUSAL_LM: _DECODERS,
    Task.IMAGE_CLASSIFICATION: _OF_IMAGES,
}
"""Values of a model's `model_type`, by task."""
