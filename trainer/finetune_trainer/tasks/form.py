"""What a task is to the trainer: its rows, its model's head, its loss and its evidence.

Everything else of the three steps is the same for every task. A task's own file puts a ``TaskForm``
together; ``registry`` knows them all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.datareport import ImageStatistics, PrepareReport
from finetune_api.dataset import Dataset
from finetune_api.run import Run
from finetune_trainer.data.cleaning import Counts
from finetune_trainer.data.encoding import Encoder
from finetune_trainer.data.form import AnyCleanRow, AnyForm
from finetune_trainer.data.pixels import PixelForm
from finetune_trainer.evaluation.findings import Compared, Findings, TestRows
from finetune_trainer.models.heads import Head
from finetune_trainer.models.processors import Processor
from finetune_trainer.training.rows import Batch, Collation, Padding

if TYPE_CHECKING:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.probe import ProbeForm

RowLoss = Callable[[Any, Batch], torch.Tensor]
"""From a model's outputs and their batch to Σ weight·loss of each row, ``[rows]`` in fp32.

What a row's weights add up to stands in the batch's ``weights``, which come from the prepared rows'
column ``weight`` (1 without it): a step's loss is the sum of the ones over that of the others, over
all rows of the global batch.
"""


class Rendering(Protocol):
    """Makes of cleaned rows what gets a role, where that depends on their tokens."""

    def render(self, rows: Sequence[AnyCleanRow], counts: Counts) -> list[AnyCleanRow]:
        """Tokenize rows; those that can't be used are left out, and counted.

        Raises
        ------
        DataError
            If a row is unfit, or too many can't be used.
        """

    def shown(self, rows: Sequence[AnyCleanRow]) -> str:
        """Some rendered rows as the model reads them, laid out for people."""


class Evidence(Protocol):
    """What a model of the task is measured by and compared with."""

    @property
    def probe(self) -> "ProbeForm | None":
        """What a head on the frozen model learns; unset where there is no such baseline."""

    def fit_baselines(
        self,
        train: Sequence[AnyCleanRow],
        select: Sequence[AnyCleanRow],
        classes: tuple[str, ...],
        *,
        seed: int,
        resamples: int,
        folder: Path,
    ) -> Compared:
        """Fit on ``train`` alone and save to ``folder``; ``select`` only shows how well it went.

        ``resamples`` are those behind each interval of a figure on ``select``.
        """

    def find(self, test: TestRows) -> Findings:
        """Score every test row by the model and by each baseline, and sum up."""


class ImageTask(Protocol):
    """What the prepare step does besides where inputs are images."""

    def decoded(self, processor: Processor, uri: str, folder: Path) -> AnyForm:
        """The form of rows whose images are decoded as they are read, and kept in ``folder``."""

    def describe(
        self, rows: Sequence[AnyCleanRow], families: Sequence[int] | None
    ) -> ImageStatistics:
        """What training images are like; ``families`` are sizes of families of near copies."""

    def keep(self, rows: Sequence[AnyCleanRow], folder: Path) -> None:
        """Keep a few of the test images as they came, below the test rows' folder."""


def use_as_trained(model: PreTrainedModel, prepared: PrepareReport) -> None:
    """Most models are scored and exported as they were trained."""


@dataclass(frozen=True, kw_only=True)
class TaskForm:
    """A task, whole.

    ``rows`` is for what a manifest says of its data. ``rendering`` is for a model's folder, its
    tokenizer and a run; most tasks have none, for their rows are encoded once they have their
    roles. ``encoder`` is for a tokenizer or image processor, the classes and the longest example,
    ``collation`` for the padding of texts or the form of images, and ``images`` for a task on
    images. ``loss`` is for a model and what was prepared; ``call`` are further keywords of the
    model's call. ``evidence`` loads what training has no use for. ``finish`` makes of a
    trained model, in place, the one that is scored and exported.
    """

    rows: Callable[[Dataset], AnyForm]
    images: ImageTask | None = None
    # Each task's own kind of processor goes in, hence Any.
    rendering: Callable[[Path, Any, Run], Rendering] | None = None
    encoder: Callable[[Any, tuple[str, ...], Any], Encoder[Any, Any]]
    head: Head
    collation: Callable[[Any], Collation]
    loss: Callable[[PreTrainedModel, PrepareReport], RowLoss]
    call: Mapping[str, Any] = field(default_factory=dict)
    evidence: Callable[[], Evidence]
    finish: Callable[[PreTrainedModel, PrepareReport], None] = use_as_trained

    def batches(self, processor: Processor, uri: str, multiple_of: int = 1) -> Collation:
        """How prepared rows become batches for a model with this processor."""
        if isinstance(processor, PreTrainedTokenizerBase):
            return self.collation(Padding(int(processor.pad_token_id), multiple_of=multiple_of))
        return self.collation(PixelForm.of(processor, uri))
