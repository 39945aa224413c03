"""Does the model know the rows it learned from better than others: the generalization gap.

The evaluate step asks the scored checkpoint about the select rows and as many training rows, by the
loss that was minimized. What a row's weights are stands in ``tasks.form``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from finetune_api.evaluationreport import Generalization, Interval
from finetune_trainer.evaluation.inference import Places, batches_by_length, score_rows
from finetune_trainer.evaluation.intervals import mean_and_half
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.training.rows import Batch, Collation, PreparedRows

RowLoss = Callable[[Any, Batch], torch.Tensor]
"""As ``tasks.form`` has it."""


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Σ weight·loss and Σ weight of each row, and the unit that it belongs to."""

    losses: Floats
    weights: Floats
    units: Integers


def drawn_like(train: Dataset, select: Dataset, seed: int) -> Dataset:
    """As many of the training rows as there are select rows, at random."""
    size = min(len(train), len(select))
    chosen = np.random.default_rng(seed).choice(len(train), size=size, replace=False)
    return train.select(np.sort(chosen))


def row_losses(
    model: PreTrainedModel, rows: Dataset, collation: Collation, row_loss: RowLoss, call: Any
) -> Losses:
    """The loss of each row in evaluation mode; units are rows, or the groups that they name."""
    prepared = PreparedRows(rows, collation)
    losses = np.zeros(len(rows))

    def take(places: Places, batch: Batch, output: Any) -> None:
        on_device = {name: values.to(model.device) for name, values in batch.items()}
        losses[places] = row_loss(output, on_device).double().cpu().numpy()

    score_rows(model, prepared, batches_by_length(prepared.lengths), take, call)
    groups = [f"row {row}" if one is None else one for row, one in enumerate(rows["group"])]
    return Losses(
        losses=losses,
        weights=prepared.weights,
        units=np.unique(groups, return_inverse=True)[1],
    )


def generalization(train: Losses, select: Losses) -> Generalization:
    """The mean losses and their difference.

    Intervals are Student's; that of the gap is put together from both (MOVER: Zou & Donner 2008).
    """
    (one, one_half), (other, other_half) = (
        mean_and_half(rows.losses, rows.weights, rows.units) for rows in (train, select)
    )
    half = None if one_half is None or other_half is None else float(np.hypot(one_half, other_half))
    return Generalization(
        train_rows=len(train.losses),
        select_rows=len(select.losses),
        train_loss=_around(one, one_half),
        select_loss=_around(other, other_half),
        gap=_around(other - one, half),
    )


def _around(value: float, half: float | None) -> Interval:
    if half is None:
        return Interval(value=value)
    return Interval(value=value, low=value - half, high=value + half)


def losses_table(train: Losses, select: Losses) -> pa.Table:
    """A line per row: ``role``, ``loss`` (times its weight) and ``weight``; no row is named."""
    both = (train, select)
    return pa.table(
        {
            "role": np.repeat(["train", "select"], [len(one.losses) for one in both]),
            "loss": np.concatenate([one.losses for one in both]),
            "weight": np.concatenate([one.weights for one in both]),
        }
    )
