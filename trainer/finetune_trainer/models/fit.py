"""Whether a model fits the data's classes, its own tokenizer and its own configuration.

``prepare`` asks before a GPU is held, and ``load`` again before it trains: one rule, one message.
"""

import re
from collections.abc import Iterable

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from finetune_trainer.errors import UsageError
from finetune_trainer.models.heads import Head

# A new classifier stands on the pooler, and many backbones come without one.
_POOLER = re.compile(r"(^|\.)pooler\.")
_UNNAMED = re.compile(r"LABEL_\d+")
_NAMED_FEW = 5


def require_same_labels(
    uri: str, config: PreTrainedConfig, head: Head, labels: tuple[str, ...]
) -> None:
    """A model that has such a head already keeps its classes, in their order.

    Raises
    ------
    UsageError
        If the data have other classes, or the same in another order; or if the head is one for
        numbers, for which no two sets of rows have the same scale.
    """
    if head.generates or head.sees or not has_head(config, head):
        return
    if head.problem_type == "regression":
        raise UsageError(
            f"model.uri: {uri}: it has a head already, which tells numbers of other rows or "
            "classes; text-regression starts from a model without head"
        )
    theirs = labels_of(config)
    unnamed = all(_UNNAMED.fullmatch(label) for label in theirs)
    if len(theirs) != len(labels) or not (unnamed or theirs == labels):
        raise UsageError(
            f"model.uri: {uri}: it classifies into {few(theirs)}, the data into {few(labels)}; "
            "name the labels in the model's order in dataset.labels, or take a model without head"
        )


def has_head(config: PreTrainedConfig, head: Head) -> bool:
    """Whether a model has such a head already."""
    return any(head.suffix in name for name in config.architectures or ())


def labels_of(config: PreTrainedConfig) -> tuple[str, ...]:
    """The classes of a model's outputs, in their order."""
    return tuple(str(label) for _, label in sorted((config.id2label or {}).items()))


def replaces_head(config: PreTrainedConfig, head: Head, labels: tuple[str, ...]) -> bool:
    """Whether the head that a model of images comes with is for other classes, and gives way."""
    return head.sees and has_head(config, head) and labels_of(config) != labels


def require_same_padding(
    uri: str, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    """What the tokenizer pads with is what the model takes for padding.

    Raises
    ------
    UsageError
        If the model's configuration names another id.
    """
    if config.pad_token_id not in (None, tokenizer.pad_token_id):
        raise UsageError(
            f"model.uri: {uri}: it pads with {config.pad_token_id} by its config.json and with "
            f"{tokenizer.pad_token_id} by its tokenizer; make them equal"
        )


def require_weights(uri: str, head: Head, prefix: str, lacking: Iterable[str]) -> None:
    """Of the weights that a folder lacks, only those of a new head may be drawn.

    ``prefix`` is the backbone's attribute in the model: transformers' ``base_model_prefix``.

    Raises
    ------
    UsageError
        If one is of the backbone, or if the head is none that may be new.
    """
    if head.generates and (absent := sorted(lacking)):
        raise UsageError(
            f"model.uri: {uri}: {len(absent)} weights are missing or of another shape than "
            f"config.json says ({few(absent)}); take a whole language model"
        )
    broken = sorted(
        name for name in lacking if name.startswith(f"{prefix}.") and not _POOLER.search(name)
    )
    if broken:
        raise UsageError(
            f"model.uri: {uri}: {len(broken)} weights of the backbone are missing or of another "
            f"shape than config.json says ({few(broken)}); only a head may be new"
        )


def few(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    listed = list(names)
    more = f", … {len(listed) - _NAMED_FEW} more" if len(listed) > _NAMED_FEW else ""
    return ", ".join(listed[:_NAMED_FEW]) + more
