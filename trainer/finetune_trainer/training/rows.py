"""Prepared rows as tensors: what ``prepare`` tokenized, padded batch by batch.

Read by each rank from the shared workspace, memory-mapped; only its own micro-batches are decoded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from datasets import Dataset, load_from_disk

from finetune_trainer.errors import DataError
from finetune_trainer.training.plan import StepPlan

Batch = dict[str, torch.Tensor]
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Padding:
    """How rows of different length become one tensor."""

    pad_token_id: int
    multiple_of: int = 1


class PreparedRows:
    """One role's rows: token ids, attention mask and class of each."""

    def __init__(self, dataset: Dataset, padding: Padding) -> None:
        self._inputs = [name for name in _INPUTS if name in dataset.column_names]
        self._dataset = dataset.select_columns([*self._inputs, "label"])
        self._padding = padding

    @classmethod
    def load(cls, folder: Path, padding: Padding) -> "PreparedRows":
        """Open what the prepare step wrote.

        Raises
        ------
        DataError
            If there is nothing.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: no prepared rows; run the prepare step first")
        return cls(load_from_disk(str(folder)), padding)

    def __len__(self) -> int:
        return len(self._dataset)

    @cached_property
    def shortest_first(self) -> npt.NDArray[np.int64]:
        """Row numbers by length."""
        lengths = pc.list_value_length(self._dataset.with_format("arrow")[:]["input_ids"])
        return np.argsort(lengths.to_numpy(), kind="stable")

    def batch(self, rows: Sequence[int]) -> tuple[Batch, list[int]]:
        """Inputs and ``labels`` of these rows, ``[rows, longest]``, and each row's tokens."""
        columns = self._dataset[list(rows)]
        lengths = [len(ids) for ids in columns["input_ids"]]
        multiple = self._padding.multiple_of
        width = -(-max(lengths) // multiple) * multiple
        batch = {
            name: _padded(
                columns[name], width, self._padding.pad_token_id if name == "input_ids" else 0
            )
            for name in self._inputs
        }
        batch["labels"] = torch.tensor(columns["label"], dtype=torch.long)
        return batch, lengths


class StepStream:
    """The micro-batches of one rank, from an optimizer step to the last: a Trainer's data loader.

    Its length is that of the whole training, wherever it starts, for the Trainer counts in it.
    Each batch has, beside the inputs: ``row_weights`` (1 or 0 per row), ``batch_rows`` (rows of
    the whole global batch) and ``tokens`` (this micro-batch's real ones).
    """

    def __init__(
        self, rows: PreparedRows, plan: StepPlan, *, rank: int, first_step: int, total_steps: int
    ) -> None:
        self._rows = rows
        self._plan = plan
        self._rank = rank
        self._steps = range(first_step, total_steps)
        self._total_steps = total_steps

    def __len__(self) -> int:
        return self._total_steps * self._plan.accumulation_steps

    def __iter__(self) -> Iterator[Batch]:
        for step in self._steps:
            for micro in range(self._plan.accumulation_steps):
                yield self._batch(step, micro)

    def _batch(self, step: int, micro: int) -> Batch:
        share = self._plan.micro_batch(step, micro, self._rank)
        batch, lengths = self._rows.batch(share.rows.tolist())
        batch["row_weights"] = torch.from_numpy(share.real.astype(np.float32))
        batch["batch_rows"] = torch.tensor(share.batch_rows)
        batch["tokens"] = torch.tensor(int((share.real * lengths).sum()))
        return batch


def scoring_batches(
    rows: PreparedRows, *, batch_size: int, rank: int, world_size: int
) -> Iterator[tuple[Batch, int]]:
    """A rank's share of all rows, each row on one rank, and how many rows of a batch are real.

    Every rank makes as many batches, of as many rows: the last ones are filled up. Rows of like
    length go together, so that little is padded.
    """
    order = rows.shortest_first
    share = -(-len(rows) // (world_size * batch_size)) * batch_size
    places = rank + world_size * np.arange(share)
    for start in range(0, share, batch_size):
        here = places[start : start + batch_size]
        real = int((here < len(rows)).sum())
        batch, _ = rows.batch(order[np.where(here < len(rows), here, 0)].tolist())
        yield batch, real


def _padded(values: Sequence[Sequence[int]], width: int, fill: int) -> torch.Tensor:
    table = np.full((len(values), width), fill, dtype=np.int64)
    for line, row in zip(table, values, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)
