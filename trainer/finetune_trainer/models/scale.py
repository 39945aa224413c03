"""The scale on which a model learns numbers, and how it is brought back into the model.

A head is born to give numbers around 0 of size 1, and Adam moves its weights by the learning rate
whatever the target's unit. So the training compares with targets of mean 0 and deviation 1, and
what is scored and exported has the scale in its last layer: it gives the number itself.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from finetune_api.datareport import PrepareReport
from finetune_trainer.errors import UsageError


@dataclass(frozen=True)
class Scale:
    """A number is ``center + unit * output`` of the model that is trained."""

    center: float
    unit: float

    @classmethod
    def of(cls, model: PreTrainedModel, prepared: PrepareReport) -> "Scale":
        """The training rows' mean and deviation.

        A last layer without bias has no place for the mean: there 0 is the center, and the unit is
        as large as the numbers are.
        """
        target = prepared.data.target
        if target is None:
            raise ValueError("the prepared rows have no numbers for a target")
        if last_layer(model).bias is not None:
            return cls(target.mean, target.deviation)
        return cls(0.0, float((target.mean**2 + target.deviation**2) ** 0.5))

    def scaled(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers as the model learns them."""
        return (numbers - self.center) / self.unit

    def fold(self, model: PreTrainedModel) -> None:
        """Make the model give the numbers themselves."""
        layer = last_layer(model)
        with torch.no_grad():
            layer.weight.mul_(self.unit)
            if layer.bias is not None:
                layer.bias.mul_(self.unit).add_(self.center)


def last_layer(model: PreTrainedModel) -> nn.Linear:
    """The layer that makes the one output: the last linear one outside of the backbone.

    Raises
    ------
    UsageError
        If the architecture has none.
    """
    backbone = f"{model.base_model_prefix}."
    layers = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.startswith(backbone)
    ]
    if not layers or layers[-1].out_features != 1:
        raise UsageError(
            f"model.uri: {type(model).__name__} has no linear layer that makes its output, which "
            "text-regression scales; take an encoder such as bert, roberta or deberta-v2"
        )
    return layers[-1]
