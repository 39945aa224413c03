"""A model's facts for the footprint, and whether its backbone is whole; no weight is built.

Used by ``prepare``. The model is laid out on the meta device, which has shapes and no memory.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel

from finetune_api.datareport import ModelFacts
from finetune_api.lora import Lora
from finetune_trainer.data.pixels import PixelForm
from finetune_trainer.errors import UsageError
from finetune_trainer.models.check import usable_positions
from finetune_trainer.models.fit import few, require_weights
from finetune_trainer.models.heads import Head
from finetune_trainer.models.image_facts import image_facts, image_layers, image_width
from finetune_trainer.models.lora import trained_parameters
from finetune_trainer.models.processors import Processor

_INNER_SIZES = ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
_INNER_TO_HIDDEN = 4


def model_facts(
    folder: Path,
    uri: str,
    config: PretrainedConfig,
    head: Head,
    outputs: int,
    lora: Lora | None = None,
    processor: Processor | None = None,
) -> ModelFacts:
    """Read shapes and names of the weights, and count what would be trained: with ``lora``, little.

    A model of images is asked what an image costs it, of the size that its ``processor`` makes.

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
    )


def _on_meta(
    folder: Path, uri: str, head: Head, outputs: int
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model, and the names of the weights that its folder lacks."""
    try:
        model, loaded = head.auto.from_pretrained(
            folder,
            num_labels=outputs,
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
