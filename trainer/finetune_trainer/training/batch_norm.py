"""What becomes of batch normalization's statistics while a model learns.

They are buffers: no gradient moves them, and no gradient makes them equal on the ranks. Frozen they
stay the model's own. Trained, each rank follows its own micro-batches, and after every step all of
them take the mean, so that ranks never hold different models, and a resume goes on from the same.
"""

from functools import partial

import torch
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm

from finetune_api.images import BatchNorm
from finetune_trainer.errors import UsageError
from finetune_trainer.training.gang import Gang


def _normalized(layer: _BatchNorm, values: torch.Tensor) -> torch.Tensor:
    """What the layer's own forward does, with its weights widened to fp32 as its statistics are."""
    return batch_norm(
        values,
        layer.running_mean,
        layer.running_var,
        layer.weight.float() if layer.affine else None,
        layer.bias.float() if layer.affine else None,
        # Without statistics of its own it always takes those of the rows.
        training=layer.training or layer.running_mean is None,
        momentum=layer.momentum or 0.0,
        eps=layer.eps,
    )


class Norms:
    """The batch normalizations of a model in training."""

    def __init__(self, model: torch.nn.Module, treatment: BatchNorm, gang: Gang) -> None:
        self._layers = [one for one in model.modules() if isinstance(one, _BatchNorm)]
        self._trained = treatment is BatchNorm.TRAIN
        self._gang = gang
        if self._trained and not self._layers:
            raise UsageError(
                "training.batchNorm: the model has no batch normalization to train; leave it out"
            )

    def keep_wide(self) -> None:
        """Normalize in fp32 where the model computes in 16 bit.

        DeepSpeed rounds weights alone, but at stage 3, where it loads statistics rounded, too. In
        16 bit they would lose what moves them.

        Raises
        ------
        UsageError
            If statistics are to be trained that are means over all batches: their count is torch's.
        """
        if self._trained and any(layer.momentum is None for layer in self._layers):
            raise UsageError(
                "training.batchNorm: the model's statistics are means over all batches, which are "
                "not trained in 16 bit; set training.precision to fp32, or leave batchNorm out"
            )
        for layer in self._layers:
            if layer.running_mean is not None and layer.running_var is not None:
                layer.running_mean = layer.running_mean.float()
                layer.running_var = layer.running_var.float()
            layer.forward = partial(_normalized, layer)  # type: ignore[method-assign]

    def before_forward(self) -> None:
        """Undo for frozen ones what ``model.train()`` has just done."""
        if not self._trained:
            for layer in self._layers:
                layer.eval()

    def after_step(self) -> None:
        """Make trained ones equal on all ranks. Called by every rank."""
        if self._trained:
            self._gang.average(
                [
                    statistics
                    for layer in self._layers
                    for statistics in (layer.running_mean, layer.running_var)
                    if statistics is not None
                ]
            )
