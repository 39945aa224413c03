"""How likely a language model finds the learned tokens of prepared rows: three sums of each row.

Logits live for one batch only, and a batch is bounded by how many of them it makes: memory grows
neither with the rows nor with the vocabulary. Used by ``language_evidence``, for the
model and for its base.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from finetune_trainer.errors import TrainerError
from finetune_trainer.evaluation.inference import (
    Places,
    batches_by_length,
    require_finite,
    score_rows,
)
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.training.language_rows import (
    TOKEN_WEIGHTS,
    WITHOUT_CACHE,
    LanguageBatches,
)
from finetune_trainer.training.rows import Batch, PreparedRows

BATCH_LOGITS = 1 << 27
"""Half a gigabyte in fp32; a single row may take more."""


@dataclass(frozen=True)
class RowLikelihoods:
    """What a model says of each of ``n`` rows, each array ``[n]``.

    ``nll`` is in nats, summed over the row's counted tokens: those of any weight. ``right`` counts
    those that are the model's first choice.
    """

    nll: Floats
    tokens: Integers
    right: Integers


def row_likelihoods(
    model: PreTrainedModel,
    rows: Dataset,
    collation: LanguageBatches,
    batch_logits: int = BATCH_LOGITS,
) -> RowLikelihoods:
    """Score prepared rows, each once, in their order, whatever the order of scoring.

    The model is used as it is, on its device and in its precision, in evaluation mode; sums are
    fp64.

    Raises
    ------
    UsageError
        If a row's likelihood is no finite number.
    TrainerError
        If a row has no counted token, which the prepare step drops.
    """
    count = len(rows)
    nll, tokens, right = np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.int64)

    def take(places: Places, batch: Batch, outputs: Any) -> None:
        nll[places], tokens[places], right[places] = _sums(outputs.logits, batch)

    vocabulary = int(model.config.get_text_config().vocab_size)
    batch_tokens = max(1, batch_logits // vocabulary)
    prepared = PreparedRows(rows, collation)
    batches = batches_by_length(prepared.lengths, batch_tokens)
    score_rows(model, prepared, batches, take, WITHOUT_CACHE)
    if (tokens == 0).any():
        raise TrainerError(f"{int((tokens == 0).sum())} test rows have no counted token")
    require_finite(rows, np.isfinite(nll))
    return RowLikelihoods(nll=nll, tokens=tokens, right=right)


def _sums(logits: torch.Tensor, batch: Batch) -> tuple[Floats, Integers, Integers]:
    """Σ nll, tokens and right ones of each row of a batch."""
    device = logits.device
    counted = batch[TOKEN_WEIGHTS][:, 1:].to(device) > 0
    targets = batch["input_ids"][:, 1:].to(device)[counted]
    chosen = logits[:, :-1][counted]
    losses = torch.zeros(counted.shape, dtype=torch.float64, device=device)
    losses[counted] = cross_entropy(chosen.float(), targets, reduction="none").double()
    hits = torch.zeros_like(counted)
    hits[counted] = chosen.argmax(-1) == targets
    return (
        losses.sum(1).cpu().numpy(),
        counted.sum(1).cpu().numpy(),
        hits.sum(1).cpu().numpy(),
    )
