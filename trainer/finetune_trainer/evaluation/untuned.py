"""The model before it was tuned, where the evidence of a tuned one asks it, too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from finetune_trainer.evaluation.findings import TestRows
from finetune_trainer.models.load import load_model


@contextmanager
def before_tuning(test: TestRows) -> Iterator[PreTrainedModel]:
    """Load it, with a new head, onto the device of the tuned one, which that leaves meanwhile."""
    uri, seed = test.run.model.uri, test.run.training.seed
    labels = test.prepared.labels
    base = load_model(test.base, uri, test.head, labels, dropout=None, seed=seed).model
    device = test.model.device
    _move(test.model, torch.device("cpu"))
    _move(base, device)
    try:
        yield base
    finally:
        _move(base, torch.device("cpu"))
        _move(test.model, device)


def _move(model: torch.nn.Module, device: torch.device) -> None:
    model.to(device)
