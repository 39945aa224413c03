"""The model's class logits for every prepared row, each row exactly once, in the rows' order.

Only ``n × K`` numbers are kept. Rows are scored by length, so that a batch pads little; the place
of a row in the result is its place in the set, whatever the order of scoring.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel

from finetune_trainer.errors import TrainerError, UsageError
from finetune_trainer.training.rows import Padding, PreparedRows

BATCH_TOKENS = 8192
BATCH_ROWS = 256


def class_logits(
    model: PreTrainedModel, rows: Dataset, batch_tokens: int = BATCH_TOKENS
) -> NDArray[np.float32]:
    """Score prepared rows; the result is ``[rows, classes]`` in fp32, row for row.

    Rows are padded as in training. The model is used as it is, on its device and in its precision,
    in evaluation mode.

    Raises
    ------
    UsageError
        If a row gets a logit that is no finite number.
    TrainerError
        If a row was not scored exactly once, which would be a fault of this function.
    """
    prepared = PreparedRows(rows, Padding(pad_token_id=int(model.config.pad_token_id or 0)))
    logits = np.zeros((len(rows), int(model.config.num_labels or 0)), dtype=np.float32)
    scored = np.zeros(len(rows), dtype=np.int64)
    model.train(mode=False)
    with torch.inference_mode():
        for places in batches_by_length(_lengths(rows), batch_tokens):
            batch, _ = prepared.batch(places.tolist())
            del batch["labels"]
            output = model(**{name: values.to(model.device) for name, values in batch.items()})
            logits[places] = output.logits.float().cpu().numpy()
            scored[places] += 1
    _check(rows, logits, scored)
    return logits


def batches_by_length(
    lengths: NDArray[np.int64], batch_tokens: int = BATCH_TOKENS, batch_rows: int = BATCH_ROWS
) -> Iterator[NDArray[np.int64]]:
    """Partition rows into batches, the longest rows first (so that memory runs out at once).

    A batch holds at most ``batch_tokens`` tokens with its padding, or a single row.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = max(1, min(batch_rows, batch_tokens // longest))
        yield order[start : start + size]
        start += size


def _lengths(rows: Dataset) -> NDArray[np.int64]:
    column = rows.with_format("arrow")[:]["input_ids"]
    lengths = pc.list_value_length(column)
    if isinstance(lengths, pa.ChunkedArray):
        lengths = lengths.combine_chunks()
    return np.asarray(lengths, dtype=np.int64)


def _check(rows: Dataset, logits: NDArray[np.float32], scored: NDArray[np.int64]) -> None:
    if not (scored == 1).all():
        raise TrainerError(
            f"{int((scored != 1).sum())} of {len(rows)} test rows were not scored exactly once"
        )
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(broken):
        names = ", ".join(str(rows[int(place)]["row_id"]) for place in broken[:5])
        raise UsageError(
            f"the model's outputs are no finite numbers for {len(broken)} of {len(rows)} test "
            f"rows (first: {names}): the training diverged; lower training.learningRate"
        )
