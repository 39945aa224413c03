"""What each task's outputs cost: Σ weight·loss of each row, in fp32 whatever the model computes in.

The form that ``trainer`` divides by the weights of the whole global batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from finetune_trainer.training.rows import NO_TAG, Batch


def class_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of each row's class, ``[rows]``."""
    nll = cross_entropy(outputs.logits.float(), batch["labels"], reduction="none")
    return nll * batch["weights"]


def label_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """Negative log-likelihood of each row's labels, their mean, ``[rows]``."""
    logits = outputs.logits.float()
    nll = binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none")
    return nll.mean(dim=-1) * batch["weights"]


def tag_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """Σ weight·negative log-likelihood of the tags of each row, ``[rows]``."""
    labels = batch["labels"]
    learned = labels != NO_TAG
    nll = cross_entropy(outputs.logits[learned].float(), labels[learned], reduction="none")
    if "token_weights" in batch:
        nll = nll * batch["token_weights"][learned]
    return nll.new_zeros(labels.shape).masked_scatter(learned, nll).sum(dim=1)


def squared_loss(
    scaled: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[Any, Batch], torch.Tensor]:
    """Squared distance of each row's one output to its scaled number, ``[rows]``."""

    def loss(outputs: Any, batch: Batch) -> torch.Tensor:
        distance = outputs.logits.float().squeeze(-1) - scaled(batch["labels"]).float()
        losses: torch.Tensor = distance.square() * batch["weights"]
        return losses

    return loss
