"""Whether a model keeps packed rows apart: their logits must be those of each row alone.

Asked once at the start of training, of the very model that will be trained. An architecture that
sees over the borders, such as one that takes no positions, then trains unpacked.
"""

import contextlib
import logging
from collections.abc import Iterator

import torch

from finetune_trainer.training.language_rows import WITHOUT_CACHE, PackedRows

TOLERANCE = 1e-4
"""Of the largest logit, in fp32: summing in another order moves less, one foreign token more."""

_ROWS = 3
_log = logging.getLogger(__name__)


def keeps_rows_apart(model: torch.nn.Module, packed: PackedRows, device: torch.device) -> bool:
    """Whether packed rows are to the model what they are alone; says so where they are not."""
    gap = packing_gap(model, packed, device)
    if gap <= TOLERANCE:
        return True
    _log.warning(
        "rows are not packed: logits of packed rows differ from those of the rows alone by %.1e of "
        "the largest (allowed: %.0e), so that the model sees over their borders",
        gap,
        TOLERANCE,
    )
    return False


def packing_gap(model: torch.nn.Module, packed: PackedRows, device: torch.device) -> float:
    """How far packed logits lie from those of the rows alone, as a share of the largest logit.

    Takes the model in fp32 and leaves it as it was, on ``device``. Called by every rank alike:
    with ZeRO 3 the ranks lend each other their weights meanwhile.
    """
    rows, order = packed.rows, packed.rows.shortest_first
    # Short rows, but not the shortest: a row of two tokens shows little.
    chosen = [int(one) for one in order[len(order) // 4 :][:_ROWS]]
    ids = rows.columns(chosen)["input_ids"]
    batch = packed.collation.packed(rows.columns(chosen), [len(chosen)])
    was_training = model.training
    model.to(device)
    model.train(mode=False)
    try:
        with torch.no_grad(), _whole(model):
            alone = torch.cat(
                [_logits(model, input_ids=torch.tensor([row], device=device)) for row in ids]
            )
            together = _logits(
                model,
                input_ids=batch["input_ids"].to(device),
                position_ids=batch["position_ids"].to(device),
            )[: len(alone)]
    finally:
        model.train(mode=was_training)
    return float((together - alone).abs().max() / alone.abs().max())


def _logits(model: torch.nn.Module, **inputs: torch.Tensor) -> torch.Tensor:
    """Logits of the only sequence, ``[tokens, vocabulary]``."""
    logits: torch.Tensor = model(**inputs, **WITHOUT_CACHE).logits[0].float()
    return logits


@contextlib.contextmanager
def _whole(model: torch.nn.Module) -> Iterator[None]:
    """The weights in one piece: ZeRO 3 has scattered them over the ranks."""
    parameters = list(model.parameters())
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters):
        yield
