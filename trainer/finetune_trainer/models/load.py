"""Loads the model that is tuned: backbone from its folder, head for the job's classes.

``train`` gives it a base model, ``evaluate`` a checkpoint. Nothing is guessed: labels, problem
type and pad id are written into the configuration, and what does not fit is refused.
"""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from finetune_trainer.errors import UsageError
from finetune_trainer.models.check import check_config
from finetune_trainer.models.fit import (
    replaces_head,
    require_same_labels,
    require_same_padding,
    require_weights,
)
from finetune_trainer.models.generation import settle_generation
from finetune_trainer.models.heads import Head
from finetune_trainer.models.processors import Processor, load_processor

# Rates at which a model drops something at random while it learns, by the names in use.
_DROPOUT = re.compile(r"dropout|pdrop|layerdrop|drop_path")


@dataclass(frozen=True)
class Loaded:
    """A model with its head, and the tokenizer or image processor that goes with it."""

    model: PreTrainedModel
    processor: Processor
    new_weights: tuple[str, ...]


def load_model(
    folder: Path,
    uri: str,
    head: Head,
    labels: tuple[str, ...],
    *,
    dropout: float | None,
    seed: int,
) -> Loaded:
    """Load a model with fp32 weights and one output per label; messages name it by its ``uri``.

    Weights that the folder lacks are drawn from ``seed`` alone, on any number of ranks; only a head
    (and the pooler below it) may be lacking.

    Raises
    ------
    UsageError
        If the folder holds no model, a model without safetensors, one whose backbone lacks
        weights, or a head for other labels.
    """
    config = check_config(folder, uri, head)
    processor = load_processor(folder, uri, head)
    require_same_labels(uri, config, head, labels)
    anew = replaces_head(config, head, labels)
    head.settle(config, labels)
    if isinstance(processor, PreTrainedTokenizerBase):
        require_same_padding(uri, config, processor)
        config.pad_token_id = processor.pad_token_id
    if dropout is not None:
        override_dropout(config, dropout)
    model, missing = load_weights(folder, uri, config, head, replaced=anew)
    require_weights(uri, head, model.base_model_prefix, missing)
    if missing:
        _make_head(model, missing, seed)
    if isinstance(processor, PreTrainedTokenizerBase) and head.generates:
        settle_generation(model, processor)
    return Loaded(model=model, processor=processor, new_weights=tuple(missing))


def override_dropout(config: PreTrainedConfig, rate: float) -> list[str]:
    """Set every dropout rate of a configuration; return the names of those that it has."""
    names = [
        name
        for name, value in config.to_dict().items()
        if _DROPOUT.search(name)
        and not isinstance(value, bool)
        and (value is None or isinstance(value, int | float))
    ]
    for name in names:
        setattr(config, name, rate)
    return names


def load_weights(
    folder: Path, uri: str, config: PreTrainedConfig, head: Head, *, replaced: bool = False
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of what it lacks; a head that is ``replaced`` it lacks whole.

    Raises
    ------
    UsageError
        If the weights can't be read, or don't fit the configuration.
    """
    # What the loader reports: names of weights by what became of them.
    report: dict[str, Any]
    try:
        model, report = head.auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=replaced,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise UsageError(
            f"model.uri: {uri} does not load for {head.task.value}: {str(error)[:400]}"
        ) from error
    _leave_the_file(model)
    zero3: bool = is_deepspeed_zero3_enabled()  # type: ignore[no-untyped-call]
    if zero3 and hasattr(model, "_weight_conversions"):
        # There the loader notes every renaming that it knows, and saving would go back to names
        # of old (LayerNorm.gamma); without the note it takes those that the architecture has.
        del model._weight_conversions  # noqa: SLF001
    lacking = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    if replaced:
        lacking |= set(head_weights(model))
    return model, sorted(lacking)


def _leave_the_file(model: PreTrainedModel) -> None:
    """Copy the buffers out of the mapped file, all of which stays in memory for any one of them.

    Weights leave it by themselves where DeepSpeed lays them out anew.
    """
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            # Not into ``buffer.data``: the loader's buffers are views, and keep what they view.
            setattr(module, name, buffer.clone())


def head_weights(model: PreTrainedModel) -> list[str]:
    """Names of the weights outside of the backbone."""
    return [
        name
        for name, _ in model.named_parameters()
        if not name.startswith(f"{model.base_model_prefix}.")
    ]


def _make_head(model: PreTrainedModel, missing: Iterable[str], seed: int) -> None:
    """Draw the new weights anew: loaders draw them from other numbers at each ZeRO stage."""
    owners = sorted({name.rpartition(".")[0] for name in missing})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for owner in owners:
            module = model.get_submodule(owner)
            with _whole(module):
                for parameter in module.parameters(recurse=False):
                    parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # noqa: SLF001
                # The architecture's own way of drawing, which the base class documents.
                model._init_weights(module)  # type: ignore[no-untyped-call]  # noqa: SLF001


def _whole(module: torch.nn.Module) -> Any:  # a context manager of DeepSpeed's, which has no types
    """Parameters of one module in one piece: ZeRO 3 has scattered them over the ranks."""
    parameters = list(module.parameters(recurse=False))
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0)
