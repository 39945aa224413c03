"""Prepared rows as tensors: what ``prepare`` tokenized, padded batch by batch.

Read by each rank from the shared workspace, memory-mapped; only its own micro-batches are decoded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, load_from_disk

from finetune_trainer.errors import DataError
from finetune_trainer.training.plan import StepPlan

Batch = dict[str, torch.Tensor]
Columns = Mapping[str, Sequence[Any]]
"""Columns of some prepared rows, as `datasets` gives them."""

Vary = Callable[[Columns, Sequence[int]], Columns]
"""Changes the columns of rows, given the turn of each in the training."""

PIXELS = "pixels"
_PIXELS_PER_TOKEN = 16 * 16
"""What an image counts as, where batches are filled: a patch of a vision transformer, a token."""

_SEQUENCES = ("input_ids", "attention_mask", "token_type_ids")
NO_TAG = -100
"""The tag of a token that is not learned, as torch's cross-entropy has it."""

_NOT_INPUTS = ("labels", "weights", "token_weights", "real", "batch_weight", "tokens")
"""What of a batch is for the loss and the Trainer, and not for the model."""


@dataclass(frozen=True)
class Padding:
    """How rows of different length become one tensor."""

    pad_token_id: int
    multiple_of: int = 1

    def width(self, rows: Columns) -> int:
        """Tokens of the longest row, rounded up."""
        longest = max(len(ids) for ids in rows["input_ids"])
        return -(-longest // self.multiple_of) * self.multiple_of


class Collation(Protocol):
    """How a task's rows become a batch: the model's inputs, and ``labels`` for its loss."""

    @property
    def columns(self) -> Sequence[str]:
        """The columns that it reads; those that the prepared rows lack are left out."""

    def batch(self, rows: Columns) -> Batch:
        """Tensors of as many rows."""


@dataclass(frozen=True)
class ClassBatches:
    """Token sequences with a class each: ``labels`` is ``[rows]``."""

    padding: Padding
    columns: Sequence[str] = (*_SEQUENCES, "label")

    def batch(self, rows: Columns) -> Batch:
        """Padded inputs and class numbers."""
        return {
            **padded_inputs(rows, self.padding),
            "labels": torch.tensor(rows["label"], dtype=torch.long),
        }


@dataclass(frozen=True)
class LabelBatches:
    """Token sequences with several labels each: ``labels`` is ``[rows, labels]`` of 0 and 1."""

    padding: Padding
    columns: Sequence[str] = (*_SEQUENCES, "label")

    def batch(self, rows: Columns) -> Batch:
        """Padded inputs and labels."""
        return {
            **padded_inputs(rows, self.padding),
            "labels": torch.tensor(rows["label"], dtype=torch.float32),
        }


@dataclass(frozen=True)
class NumberBatches:
    """Token sequences with a number each: ``labels`` is ``[rows]``, in double precision."""

    padding: Padding
    columns: Sequence[str] = (*_SEQUENCES, "label")

    def batch(self, rows: Columns) -> Batch:
        """Padded inputs and numbers."""
        return {
            **padded_inputs(rows, self.padding),
            "labels": torch.tensor(rows["label"], dtype=torch.float64),
        }


@dataclass(frozen=True)
class TagBatches:
    """Token sequences some of whose tokens have a tag: ``labels`` is ``[rows, longest]``.

    ``NO_TAG`` stands where there is none.
    """

    padding: Padding
    columns: Sequence[str] = (*_SEQUENCES, "tags")

    def batch(self, rows: Columns) -> Batch:
        """Padded inputs and tag numbers."""
        width = self.padding.width(rows)
        return {
            **padded_inputs(rows, self.padding),
            "labels": padded(rows["tags"], width, NO_TAG),
        }


class PreparedRows:
    """One role's rows, as the prepare step left them, and what each weighs in the loss."""

    def __init__(self, dataset: Dataset, collation: Collation) -> None:
        wanted = [name for name in collation.columns if name in dataset.column_names]
        self.lengths = _lengths(dataset)
        self.tokens = np.zeros_like(self.lengths) if PIXELS in wanted else self.lengths
        self._dataset = dataset.select_columns(wanted)
        self._collation = collation
        self.weights = np.ones(len(dataset))
        if "weight" in dataset.column_names:
            self.weights = np.asarray(dataset["weight"], dtype=np.float64)
        self._token_weights: torch.Tensor | None = None

    @cached_property
    def classes(self) -> npt.NDArray[np.int64]:
        """The class of whatever is learned: of each row, or of each tagged token of all rows."""
        if not self._has_tags:
            return np.asarray(self._dataset["label"], dtype=np.int64)
        tags = np.concatenate(self._dataset["tags"]).astype(np.int64)
        return np.asarray(tags[tags != NO_TAG])

    @property
    def _has_tags(self) -> bool:
        return "tags" in self._dataset.column_names

    def weigh(self, class_weights: Sequence[float]) -> None:
        """Let each of ``classes`` weigh what its class does; a row weighs what its ones add up to.

        Where tokens have classes, ``token_weights`` of a batch say what each token weighs.
        """
        each = np.asarray(class_weights, dtype=np.float64)[self.classes]
        if not self._has_tags:
            self.weights = each
            return
        counts = self.weights.astype(np.int64)
        ends, sums = np.cumsum(counts), np.concatenate([[0.0], np.cumsum(each)])
        self.weights = sums[ends] - sums[ends - counts]
        self._token_weights = torch.tensor(class_weights, dtype=torch.float32)

    @classmethod
    def load(cls, folder: Path, collation: Collation) -> "PreparedRows":
        """Open what the prepare step wrote.

        Raises
        ------
        DataError
            If there is nothing.
        """
        if not folder.is_dir():
            raise DataError(f"{folder}: no prepared rows; run the prepare step first")
        return cls(load_from_disk(str(folder)), collation)

    def __len__(self) -> int:
        return len(self._dataset)

    @cached_property
    def shortest_first(self) -> npt.NDArray[np.int64]:
        """Row numbers by length."""
        return np.argsort(self.lengths, kind="stable")

    def columns(self, rows: Sequence[int]) -> Columns:
        """The columns of these rows, as the prepare step left them."""
        columns: Columns = self._dataset[list(rows)]
        return columns

    def batch(
        self, rows: Sequence[int], vary: Callable[[Columns], Columns] | None = None
    ) -> tuple[Batch, npt.NDArray[np.int64]]:
        """Inputs, ``labels`` and ``weights`` of these rows, and each row's tokens."""
        chosen = list(rows)
        columns = self.columns(chosen)
        batch = self._collation.batch(columns if vary is None else vary(columns))
        batch["weights"] = torch.from_numpy(self.weights[chosen].astype(np.float32))
        if self._token_weights is not None:
            batch["token_weights"] = self._token_weights[batch["labels"].clamp(min=0)]
        return batch, self.tokens[chosen]


class StepStream:
    """The micro-batches of one rank, from an optimizer step to the last: a Trainer's data loader.

    Its length is that of the whole training, wherever it starts, for the Trainer counts in it.
    Each batch has, beside the inputs: ``real`` (1 or 0 per row), ``batch_weight`` (what the rows of
    the whole global batch weigh) and ``tokens`` (this micro-batch's real ones). The weight is known
    to every rank before it computes anything, for each of them knows the whole batch's rows.
    ``vary`` changes a row anew at each of its turns.
    """

    def __init__(
        self,
        rows: PreparedRows,
        plan: StepPlan,
        *,
        rank: int,
        first_step: int,
        total_steps: int,
        vary: Vary | None = None,
    ) -> None:
        self._vary = vary
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
        rows = share.rows.tolist()
        batch, tokens = self._rows.batch(rows, self._varied(share.turns))
        weight = batch_weight(self._rows.weights[self._plan.global_batch(step)])
        batch["real"] = torch.from_numpy(share.real.astype(np.float32))
        batch["batch_weight"] = torch.tensor(weight, dtype=torch.float32)
        batch["tokens"] = torch.tensor(int((share.real * tokens).sum()))
        return batch

    def _varied(self, turns: npt.NDArray[np.int64]) -> Callable[[Columns], Columns] | None:
        vary = self._vary
        if vary is None:
            return None
        return lambda columns: vary(columns, turns.tolist())


def batch_weight(weights: npt.NDArray[np.float64]) -> float:
    """What the rows of a global batch weigh; 1 where none of them has anything to learn."""
    return float(weights.sum()) or 1.0


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


def model_inputs(batch: Batch, device: torch.device | None = None) -> Batch:
    """What of a batch the model is called with, on its device."""
    return {
        name: values if device is None else values.to(device)
        for name, values in batch.items()
        if name not in _NOT_INPUTS
    }


def padded_inputs(rows: Columns, padding: Padding) -> Batch:
    """Token ids, attention mask and token types, ``[rows, longest]``, as far as there are any."""
    width = padding.width(rows)
    return {
        name: padded(rows[name], width, padding.pad_token_id if name == "input_ids" else 0)
        for name in _SEQUENCES
        if name in rows
    }


def padded(values: Sequence[Sequence[int]], width: int, fill: int) -> torch.Tensor:
    """Whole numbers of each row, filled up on the right."""
    table = np.full((len(values), width), fill, dtype=np.int64)
    for line, row in zip(table, values, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(table)


def _lengths(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Tokens of each row; of an image, what it counts as."""
    if PIXELS in dataset.column_names:
        pixels = len(dataset[0][PIXELS]) // 3 if len(dataset) else 0
        return np.full(len(dataset), max(1, pixels // _PIXELS_PER_TOKEN), dtype=np.int64)
    lengths = pc.list_value_length(dataset.with_format("arrow")[:]["input_ids"])
    if isinstance(lengths, pa.ChunkedArray):
        lengths = lengths.combine_chunks()
    return np.asarray(lengths, dtype=np.int64)
