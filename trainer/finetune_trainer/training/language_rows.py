"""Rows of language data as tensors, a row to a line or several in a sequence, and their loss.

Beside the inputs a batch has ``token_weights``: each token's weight in the loss, 0 for what is only
read, for padding, and for a row's first token, which nothing predicts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, pad

from finetune_trainer.training.packing import PackedPlan
from finetune_trainer.training.rows import Batch, Columns, Padding, PreparedRows, padded

TOKEN_WEIGHTS = "token_weights"  # noqa: S105 - a column's name
WITHOUT_CACHE: Mapping[str, Any] = MappingProxyType({"use_cache": False})
"""How the model is called: with a cache, transformers would not look for packed rows."""


@dataclass(frozen=True)
class LanguageBatches:
    """Token sequences whose tokens have weights."""

    padding: Padding
    columns: Sequence[str] = ("input_ids", TOKEN_WEIGHTS)

    def batch(self, rows: Columns) -> Batch:
        """Rows, ``[rows, longest]``; padding is what the attention mask says, whatever its id."""
        width = self.padding.width(rows)
        lengths = np.asarray([len(ids) for ids in rows["input_ids"]])
        mask = np.arange(width) < lengths[:, None]
        return {
            "input_ids": padded(rows["input_ids"], width, self.padding.pad_token_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            TOKEN_WEIGHTS: _weights(rows[TOKEN_WEIGHTS], width),
        }

    def packed(self, rows: Columns, sizes: Sequence[int]) -> Batch:
        """Rows one after the other, ``sizes`` of them in each sequence, ``[sequences, longest]``.

        Positions tell them apart. There is no attention mask: transformers looks for packed rows
        only where there is none. Padding is a row of its own at a sequence's end.
        """
        parts = _in_sequences(rows["input_ids"], sizes)
        ids = {"input_ids": [list(chain(*sequence)) for sequence in parts]}
        width = self.padding.width(ids)
        positions = [
            [*chain.from_iterable(range(len(row)) for row in sequence), *range(width - len(line))]
            for sequence, line in zip(parts, ids["input_ids"], strict=True)
        ]
        weights = [list(chain(*sequence)) for sequence in _in_sequences(rows[TOKEN_WEIGHTS], sizes)]
        return {
            "input_ids": padded(ids["input_ids"], width, self.padding.pad_token_id),
            "position_ids": torch.tensor(positions, dtype=torch.long),
            TOKEN_WEIGHTS: _weights(weights, width),
        }


def token_loss(outputs: Any, batch: Batch) -> torch.Tensor:
    """Σ weight·nll of the tokens of each line, ``[lines]``.

    Only the learned tokens' logits are widened to fp32: prompts and padding take no such memory.
    They are picked out of all positions at once: cut first, their gradient would be built twice.
    """
    weights = batch[TOKEN_WEIGHTS][:, 1:]
    learned = weights > 0
    targets = batch["input_ids"][:, 1:][learned]
    before = pad(learned, (0, 1))
    nll = cross_entropy(outputs.logits[before].float(), targets, reduction="none")
    return torch.zeros_like(weights).masked_scatter(learned, nll * weights[learned]).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """Rows that share sequences as ``plan`` says."""

    rows: PreparedRows
    collation: LanguageBatches
    plan: PackedPlan


class PackedStream:
    """The micro-batches of one rank as ``rows.StepStream`` has them, of packed sequences.

    ``real`` is 1 or 0 per sequence.
    """

    def __init__(self, packed: PackedRows, *, rank: int, first_step: int, total_steps: int) -> None:
        self._rows = packed.rows
        self._collation = packed.collation
        self._packed = packed.plan
        self._rank = rank
        self._steps = range(first_step, total_steps)
        self._total_steps = total_steps

    def __len__(self) -> int:
        return self._total_steps * self._packed.accumulation_steps

    def __iter__(self) -> Iterator[Batch]:
        for step in self._steps:
            weight = self._rows.weights[self._packed.plan.global_batch(step)].sum()
            for micro in range(self._packed.accumulation_steps):
                batch = self._batch(step, micro)
                batch["batch_weight"] = torch.tensor(weight, dtype=torch.float32)
                yield batch

    def _batch(self, step: int, micro: int) -> Batch:
        share = self._packed.micro_batch(step, micro, self._rank)
        rows = list(chain(*share.sequences))
        sizes = [len(sequence) for sequence in share.sequences]
        batch = self._collation.packed(self._rows.columns(rows), sizes)
        real = float(not share.filler)
        batch["real"] = torch.full((len(sizes),), real)
        batch["tokens"] = torch.tensor(int(real * self._rows.lengths[rows].sum()))
        return batch


def _in_sequences(values: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    ends = np.cumsum(sizes).tolist()
    return [list(values[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


def _weights(values: Sequence[Sequence[float]], width: int) -> torch.Tensor:
    table = np.zeros((len(values), width), dtype=np.float32)
    for line, row in zip(table, values, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)
