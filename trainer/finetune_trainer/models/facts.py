"""A model's facts for the footprint, and whether its backbone is whole; no weight is built.

Used by ``prepare``. The model is laid out on the meta device, which has shapes and no memory.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

from finetune_api.datareport import ModelFacts, StepTrace
from finetune_api.footprint import ELEMENT
from finetune_api.lora import Lora
from finetune_api.run import RunTraining
from finetune_api.training import Precision
from finetune_trainer.data.pixels import CHANNELS, PixelForm
from finetune_trainer.errors import UsageError
from finetune_trainer.models.check import check_config, usable_positions
from finetune_trainer.models.fit import few, require_weights
from finetune_trainer.models.heads import Head
from finetune_trainer.models.image_facts import image_facts, image_layers, image_width
from finetune_trainer.models.load import override_dropout
from finetune_trainer.models.lora import adapt, trained_parameters
from finetune_trainer.models.processors import Processor
from finetune_trainer.models.step_trace import Traced, trace_step

_INNER_SIZES = ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
_INNER_TO_HIDDEN = 4
_log = logging.getLogger(__name__)


def model_facts(
    folder: Path,
    uri: str,
    config: PretrainedConfig,
    head: Head,
    outputs: int,
    lora: Lora | None = None,
    processor: Processor | None = None,
    training: RunTraining | None = None,
) -> ModelFacts:
    """Read shapes and names of the weights, and count what would be trained: with ``lora``, little.

    A model of images is asked what an image costs it, of the size that its ``processor`` makes. Of
    a ``training`` one step is traced.

    Raises
    ------
    UsageError
        If weights can't be read, one of the backbone is missing or of another shape, or the head is
        of another number of outputs: only a head that is missing may be new.
    """
    model, new_weights = _on_meta(folder, uri, head, outputs)
    parameters = [one.numel() for one in model.parameters()]
    trained = sum(parameters)
    if lora is not None:
        trained = trained_parameters(model, uri, lora, new_weights)
    traced = None
    if training is not None:
        traced = traced_model(folder, uri, head, outputs, training, lora, processor)
    measured: dict[str, Any] = {
        "largest_weight": traced.largest_weight if traced else 0,
        "trace": _trace(traced, training) if traced and training else None,
        # Without frozen weights the two are alike.
        "gathered_trace": _trace(replace(traced, gathered=True), training)
        if traced and training and lora
        else None,
    }
    if isinstance(processor, BaseImageProcessor):
        return ModelFacts(
            architecture=type(model).__name__,
            model_type=config.model_type,
            parameters=sum(parameters),
            trainable_parameters=trained,
            layers=image_layers(config),
            hidden_size=image_width(config),
            intermediate_size=0,
            attention_heads=0,
            vocabulary=0,
            classes=outputs,
            image=image_facts(model, PixelForm.of(processor, uri), uri, image_layers(config)),
            **measured,
        )
    text = config.get_text_config()
    return ModelFacts(
        architecture=type(model).__name__,
        model_type=config.model_type,
        parameters=sum(parameters),
        trainable_parameters=trained,
        layers=int(text.num_hidden_layers),
        hidden_size=int(text.hidden_size),
        intermediate_size=_inner_size(text),
        attention_heads=int(text.num_attention_heads),
        vocabulary=int(text.vocab_size),
        max_positions=usable_positions(config),
        classes=int(text.vocab_size) if head.generates else outputs,
        per_token=head.generates or head.reads_words,
        **measured,
    )


def traced_model(
    folder: Path,
    uri: str,
    head: Head,
    outputs: int,
    training: RunTraining,
    lora: Lora | None = None,
    processor: Processor | None = None,
) -> Traced:
    """A model as it is trained, on the meta device, with rows as long as they may be.

    Raises
    ------
    UsageError
        As ``model_facts`` does.
    """
    model, new_weights = _on_meta(folder, uri, head, outputs, training.dropout)
    made: torch.nn.Module = model
    if lora is not None:
        with torch.device("meta"):
            made = adapt(model, uri, lora, new_weights, training.seed)
    if isinstance(processor, BaseImageProcessor):
        form = PixelForm.of(processor, uri)
        size = (CHANNELS, form.height, form.width)
        return Traced(
            model=made,
            inputs=lambda rows: {"pixel_values": torch.zeros((rows, *size))},
            tokens=1,
        )
    length = training.max_length or 1
    return Traced(
        model=made,
        inputs=lambda rows: {
            name: torch.ones((rows, length), dtype=torch.long)
            for name in ("input_ids", "attention_mask")
        },
        tokens=length,
        per_token=head.generates or head.reads_words,
        call={"use_cache": False} if head.generates else {},
    )


def _trace(traced: Traced, training: RunTraining) -> StepTrace | None:
    """A step's trace; None of a model whose way depends on the values that it computes."""
    precision = Precision.BF16 if training.precision is Precision.AUTO else training.precision
    try:
        return trace_step(
            traced, element=ELEMENT[precision], recomputed=training.activation_checkpointing
        )
    except Exception as error:  # noqa: BLE001 - an estimate refuses no model, whatever its code does
        _log.warning(
            "the memory of a step is estimated by a formula, for %s can't be traced (%s: %s)",
            type(traced.model).__name__,
            type(error).__name__,
            str(error).splitlines()[0][:200] if str(error) else "no reason given",
        )
        return None


def _on_meta(
    folder: Path, uri: str, head: Head, outputs: int, dropout: float | None = None
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, and the names of the weights that its folder lacks."""
    config = check_config(folder, uri, head)
    if not head.generates:
        config.num_labels = outputs
    if dropout is not None:
        override_dropout(config, dropout)
    try:
        model, loaded = head.auto.from_pretrained(
            folder,
            config=config,
            device_map=torch.device("meta"),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise UsageError(
            f"model.uri: {uri}: its weights can't be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:200] if str(error) else 'no reason given'}); write "
            "them anew with save_pretrained"
        ) from error
    other_shapes = {key[0] for key in loaded["mismatched_keys"]}
    lacking = {*loaded["missing_keys"], *other_shapes}
    require_weights(uri, head, model.base_model_prefix, lacking)
    if other_shapes and not head.sees:
        raise UsageError(
            f"model.uri: {uri}: its head is not one for {outputs} outputs (of another shape: "
            f"{few(sorted(other_shapes))}); take a model without head"
        )
    return model, tuple(sorted(lacking))


def _inner_size(config: PretrainedConfig) -> int:
    """The width of the feed-forward layer; four times the hidden one where none is stated."""
    for name in _INNER_SIZES:
        size = getattr(config, name, None)
        if isinstance(size, int):
            return size
    return _INNER_TO_HIDDEN * int(config.hidden_size)
