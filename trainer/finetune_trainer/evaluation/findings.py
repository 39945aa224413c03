"""What a task's evidence is given by the evaluate step, and what it gives back to both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.datareport import BaselineFit, PrepareReport
from finetune_api.evaluationreport import Generation, Mistake
from finetune_api.run import Run
from finetune_trainer.evaluation.scores import Scores
from finetune_trainer.models.heads import Head
from finetune_trainer.models.processors import Processor
from finetune_trainer.models.proof import Proof
from finetune_trainer.training.rows import Collation

if TYPE_CHECKING:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.suspects import Doubts


@dataclass(frozen=True, kw_only=True)
class TestRows:
    """The test rows with all that scores them.

    ``select`` are the rows that chose the checkpoint: what is tuned afterwards is tuned on them.
    ``folder`` is where the test rows lie, ``baselines`` the folder that the prepare step saved them
    to, ``base`` that of the model before it was tuned, which gets a new ``head``.
    """

    __test__ = False

    rows: Dataset
    select: Dataset
    folder: Path
    collation: Collation
    model: PreTrainedModel
    run: Run
    prepared: PrepareReport
    baselines: Path
    base: Path
    head: Head
    processor: Processor

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor of a model of texts."""
        assert isinstance(self.processor, PreTrainedTokenizerBase)
        return self.processor

    @property
    def ids(self) -> Sequence[str]:
        """The rows' names, in their order."""
        return list(self.rows["row_id"])

    @property
    def groups(self) -> Sequence[str] | None:
        """The group of each row; unset without a group column."""
        return list(self.rows["group"]) if self.run.dataset.columns.group is not None else None

    @property
    def grouped(self) -> Mapping[str, Sequence[str]]:
        """For each column of ``evaluation.groups`` the group of each row."""
        columns = self.run.evaluation.groups
        if not columns:
            return {}
        return dict(zip(columns, zip(*self.rows["groups"], strict=True), strict=True))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the prepare step's baselines brought: how each was fitted, and what one doubts."""

    fits: tuple[BaselineFit, ...] = ()
    doubts: "Doubts | None" = None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What scoring brought.

    ``predictions`` has a line for each test row, and every figure of ``scores`` follows from it.
    ``proof`` is what an exported model has to answer again; ``generations`` and ``mistakes`` are
    for people.
    """

    scores: Scores
    predictions: pa.Table
    proof: Proof
    generations: tuple[Generation, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
