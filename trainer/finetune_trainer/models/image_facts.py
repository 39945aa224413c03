"""What one image costs a model, counted on its shapes: no formula knows every architecture.

The model is on the meta device, which has shapes and no numbers, and is called once. What autograd
keeps of the call is what a training step keeps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig, PreTrainedModel

from finetune_api.datareport import ImageFacts
from finetune_trainer.data.pixels import CHANNELS, PixelForm
from finetune_trainer.errors import UsageError


def image_facts(model: PreTrainedModel, form: PixelForm, uri: str, layers: int) -> ImageFacts:
    """Call a model on the meta device with one image, and count.

    Raises
    ------
    UsageError
        If the model doesn't take images of the size that its processor makes.
    """
    model.train()
    weights = {id(one) for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # A view keeps what it is a view of, once. Holding it, no number is given out again.
        owner = tensor if tensor._base is None else tensor._base  # noqa: SLF001
        if id(owner) not in weights:
            kept[id(owner)] = owner
        return tensor

    # Two, for batch normalization has no variance to train by in a single one.
    images = torch.zeros((2, CHANNELS, form.height, form.width), device="meta")
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model(pixel_values=images, output_hidden_states=True)
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        raise UsageError(
            f"model.uri: {uri}: it doesn't take the {form.width} × {form.height} pixels that its "
            f"image processor makes ({str(error).splitlines()[0][:200]}); make size in "
            "preprocessor_config.json and image_size in config.json agree"
        ) from error
    finally:
        model.train(mode=False)
    numbers = -(-sum(one.numel() for one in kept.values()) // len(images))
    return ImageFacts(
        activations=max(1, numbers),
        recomputed_activations=_recomputed(model, outputs, numbers, layers),
        forward_flops=max(1, int(counter.get_total_flops()) // len(images)),
    )


def _recomputed(model: PreTrainedModel, outputs: Any, numbers: int, layers: int) -> int | None:
    """Every layer's input, and of the layer that is computed again all."""
    states: Sequence[torch.Tensor] | None = getattr(outputs, "hidden_states", None)
    if not model.supports_gradient_checkpointing or not states:
        return None
    inputs = sum(one.numel() // len(one) for one in states)
    return min(numbers, inputs + -(-numbers // layers))


def image_layers(config: PretrainedConfig) -> int:
    """Blocks of a model of images."""
    layers = getattr(config, "num_hidden_layers", None)
    if isinstance(layers, int):
        return layers
    depths = getattr(config, "depths", None) or [1]
    return max(1, sum(int(depth) for depth in depths))


def image_width(config: PretrainedConfig) -> int:
    """Numbers that the last layer has at each place."""
    for name in ("hidden_size", "hidden_sizes", "embed_dim"):
        size = getattr(config, name, None)
        if isinstance(size, list | tuple) and size:
            size = size[-1]
        if isinstance(size, int) and size > 0:
            return size
    return 1
