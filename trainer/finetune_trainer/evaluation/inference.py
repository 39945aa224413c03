"""The model's outputs for every prepared row, each row exactly once, in the rows' order.

Only what is taken of them is kept. Rows are scored by length, so that a batch pads little; the
place of a row in the result is its place in the set, whatever the order of scoring.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel

from finetune_trainer.errors import TrainerError, UsageError
from finetune_trainer.training.rows import Batch, Collation, PreparedRows, model_inputs

BATCH_TOKENS = 8192
BATCH_ROWS = 256

Places = NDArray[np.int64]
"""Where rows stand in their set."""


def row_logits(
    model: PreTrainedModel,
    rows: Dataset,
    collation: Collation,
    batch_tokens: int = BATCH_TOKENS,
) -> NDArray[np.float32]:
    """Score prepared rows; the result is ``[rows, outputs]`` in fp32, row for row.

    Raises
    ------
    UsageError
        If a row gets a logit that is no finite number.
    """
    logits = np.zeros((len(rows), int(model.config.num_labels or 0)), dtype=np.float32)

    def take(places: Places, _: Batch, output: Any) -> None:
        logits[places] = output.logits.float().cpu().numpy()

    prepared = PreparedRows(rows, collation)
    score_rows(model, prepared, batches_by_length(prepared.lengths, batch_tokens), take)
    require_finite(rows, np.asarray(np.isfinite(logits).all(axis=1)))
    return logits


def score_rows(
    model: PreTrainedModel,
    rows: PreparedRows,
    batches: Iterable[Places],
    take: Callable[[Places, Batch, Any], None],  # a model's outputs have no common type
    call: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Give ``take`` the outputs batch by batch: the rows' places, their batch, and the outputs.

    Rows are padded as in training. The model is used as it is, on its device and in its precision,
    in evaluation mode; ``call`` are further keywords of its call.

    Raises
    ------
    TrainerError
        If a row was not scored exactly once, which would be a fault of ``batches``.
    """
    scored = np.zeros(len(rows), dtype=np.int64)
    model.train(mode=False)
    with torch.inference_mode():
        for places in batches:
            batch, _ = rows.batch(places.tolist())
            take(places, batch, model(**model_inputs(batch, model.device), **call))
            scored[places] += 1
    if not (scored == 1).all():
        raise TrainerError(
            f"{int((scored != 1).sum())} of {len(rows)} test rows were not scored exactly once"
        )


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


def require_finite(rows: Dataset, finite: NDArray[np.bool_]) -> None:
    """Refuse outputs that are no numbers; ``finite`` says of each row whether its ones are.

    Raises
    ------
    UsageError
        Naming the first such rows.
    """
    broken = np.flatnonzero(~finite)
    if len(broken):
        names = ", ".join(str(rows[int(place)]["row_id"]) for place in broken[:5])
        raise UsageError(
            f"the model's outputs are no finite numbers for {len(broken)} of {len(rows)} test "
            f"rows (first: {names}): the training diverged; lower training.learningRate"
        )
