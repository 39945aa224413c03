"""A head on the frozen model, as a baseline: ``prepare`` fits it, ``evaluate`` asks it.

The features of a text are the mean of the backbone's last hidden states over its tokens: they are
there in every architecture, whereas what a new head would read is often a pooler that is new itself
(BERT's), or one token that was never trained to stand for a text. Those of an image are what the
backbone pools, and else the mean over its places. All in fp32 and evaluation mode: nothing is
dropped, and batch normalization keeps its statistics.

A forward pass of a large model takes a CPU long, and so the prepare step takes few rows or, where
those would be too few, leaves the probe out and says why. The evaluate step passes all test rows
through the untuned model, as it does through the tuned one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from finetune_api.datareport import BaselineFit, ModelFacts
from finetune_api.footprint import forward_flops
from finetune_api.tasks import Baseline
from finetune_trainer.errors import UsageError
from finetune_trainer.evaluation.findings import TestRows
from finetune_trainer.evaluation.inference import Places, batches_by_length, score_rows
from finetune_trainer.evaluation.probe import (
    Features,
    Floats,
    Integers,
    ProbeForm,
    fit_probe,
    load_probe,
    save_probe,
)
from finetune_trainer.evaluation.tfidf import drawn
from finetune_trainer.evaluation.thresholds import TUNE
from finetune_trainer.evaluation.untuned import before_tuning
from finetune_trainer.models.heads import Head
from finetune_trainer.models.load import load_model
from finetune_trainer.training.rows import Batch, Collation, PreparedRows

MOST_ROWS = 2000
"""The fit takes no more training rows than this, drawn at random.

With sentences of 27 tokens and an encoder of 22 million weights that is 22 seconds of a CPU core.
"""

MOST_SELECT_ROWS = 500
"""Its score on the select rows is of no more than this, drawn likewise."""

FEWEST_ROWS = 200
"""Of so many training rows and fewer it takes all, or there is no probe."""

MOST_FLOPS = 20 * 10**12
"""What the prepare step spends on forward passes: some four minutes of two CPU cores."""

MOST_PARAMETERS = 10**9
"""4 GB in fp32, which must fit beside the rows, and in the evaluate step beside the tuned model."""


class NoProbeError(UsageError):
    """The model has no features to learn on, or they cost too much."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The untuned model in its folder, with a new head for ``labels``, and how it reads rows."""

    folder: Path
    uri: str
    head: Head
    labels: tuple[str, ...]
    facts: ModelFacts
    collation: Collation


def fit_on_features(
    form: ProbeForm,
    frozen: Frozen,
    train: Dataset,
    select: Dataset,
    groups: Sequence[object],
    *,
    seed: int,
    folder: Path,
) -> BaselineFit:
    """Fit on prepared ``train`` rows alone and save; ``select`` only shows how well it went.

    ``groups`` are of the training rows: those of one group stay in one fold.

    Raises
    ------
    NoProbeError
        Saying why there is none.
    """
    fitting, shown = _affordable(frozen, train, select, seed)
    model = load_model(
        frozen.folder, frozen.uri, frozen.head, frozen.labels, dropout=None, seed=seed
    ).model
    known, seen = train.select(fitting), select.select(shown)
    fitted = fit_probe(
        form,
        frozen_features(model, known, frozen.collation),
        np.asarray(known["label"]),
        [groups[place] for place in fitting],
        len(frozen.labels),
        seed,
    )
    save_probe(fitted.baseline, folder)
    told = form.tell(frozen_features(model, seen, frozen.collation, fitted.baseline.outputs))
    return BaselineFit(
        name=fitted.baseline.name,
        settings=fitted.settings,
        cross_validated=fitted.cross_validated,
        # Of a few drawn rows: no figure to hold against a gate.
        select=form.figure(np.asarray(seen["label"]), told),
    )


def _affordable(
    frozen: Frozen, train: Dataset, select: Dataset, seed: int
) -> tuple[Integers, Integers]:
    """The places of the training and select rows that are passed through the model."""
    if frozen.facts.parameters > MOST_PARAMETERS:
        raise NoProbeError(
            f"the model has {frozen.facts.parameters / 1e9:.1f} billion weights, and more than "
            f"{MOST_PARAMETERS // 10**9} billion are not passed through on a CPU"
        )
    wanted, shown = min(len(train), MOST_ROWS), min(len(select), MOST_SELECT_ROWS)
    length = int(np.ceil(PreparedRows(train, frozen.collation).lengths.mean()))
    each = max(1, forward_flops(frozen.facts, rows=1, sequence_length=length))
    share = min(1.0, MOST_FLOPS / (each * (wanted + shown)))
    rows, fewest = int(share * wanted), min(len(train), FEWEST_ROWS)
    if rows < fewest:
        raise NoProbeError(
            f"a forward pass takes {each:.1e} operations a row, and the {MOST_FLOPS:.0e} that the "
            f"prepare step spends are enough for {rows} training rows, fewer than {fewest}"
        )
    return drawn(len(train), rows, seed), drawn(len(select), max(1, int(share * shown)), seed)


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What the probe says of the test rows and, to tune thresholds by, of the select rows."""

    rows: dict[Baseline, Floats] = field(default_factory=dict)
    select: dict[Baseline, Floats] = field(default_factory=dict)


def ask_probe(test: TestRows, form: ProbeForm) -> Probed:
    """Score the rows by the probe; nothing where the prepare step made none."""
    if all(fit.name is not Baseline.PROBE for fit in test.prepared.baselines):
        return Probed()
    probe = load_probe(test.baselines)
    with before_tuning(test) as model:

        def told(rows: Dataset) -> dict[Baseline, Floats]:
            outputs = frozen_features(model, rows, test.collation, probe.outputs)
            return {probe.name: form.tell(outputs)}

        tuned = test.run.evaluation.threshold == TUNE
        return Probed(rows=told(test.rows), select=told(test.select) if tuned else {})


def frozen_features(
    model: PreTrainedModel,
    rows: Dataset,
    collation: Collation,
    keep: Callable[[Features], Any] = lambda features: features,
) -> Any:  # features, or what is kept of them
    """What is to ``keep`` of the features of prepared rows, row for row, ``[rows, …]``.

    Raises
    ------
    NoProbeError
        If the backbone gives nothing that can be pooled, or no finite numbers.
    """
    prepared = PreparedRows(rows, collation)
    order: list[Places] = []
    kept: list[Floats] = []

    def take(places: Places, batch: Batch, output: Any) -> None:
        features = pooled(batch, output).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise NoProbeError("the untuned model's features are no finite numbers")
        order.append(places)
        kept.append(keep(features))

    # The published type says module; it is a model, too.
    body = cast("PreTrainedModel", model.base_model)
    score_rows(body, prepared, batches_by_length(prepared.lengths), take)
    return np.concatenate(kept)[np.argsort(np.concatenate(order))]


def pooled(batch: Batch, output: Any) -> torch.Tensor:
    """One line of features for each row, ``[rows, features]``, of a backbone's output.

    Raises
    ------
    NoProbeError
        If it has no hidden state, or of texts not one for each token.
    """
    states: torch.Tensor | None = getattr(output, "last_hidden_state", None)
    mask = batch.get("attention_mask")
    if mask is None:
        own: torch.Tensor | None = getattr(output, "pooler_output", None)
        if own is not None:
            return own.flatten(1)
        if states is not None and states.ndim == 4:
            return states.mean(dim=(2, 3))
        if states is not None and states.ndim == 3:
            return states.mean(dim=1)
    elif states is not None and states.shape[:2] == mask.shape:
        weights = mask.to(states.device, states.dtype).unsqueeze(-1)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
    raise NoProbeError("the model's backbone gives no features that could be averaged")
