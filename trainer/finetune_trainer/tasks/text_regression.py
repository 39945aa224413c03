"""Text regression: one number for each text."""

from transformers import PreTrainedModel

from finetune_api.datareport import PrepareReport
from finetune_trainer.data.text_encoding import number_encoder
from finetune_trainer.data.texts import NumberRows
from finetune_trainer.models.heads import REGRESSION
from finetune_trainer.models.scale import Scale
from finetune_trainer.tasks.form import Evidence, RowLoss, TaskForm
from finetune_trainer.training.losses import squared_loss
from finetune_trainer.training.rows import NumberBatches


def _loss(model: PreTrainedModel, prepared: PrepareReport) -> RowLoss:
    return squared_loss(Scale.of(model, prepared).scaled)


def _finish(model: PreTrainedModel, prepared: PrepareReport) -> None:
    Scale.of(model, prepared).fold(model)


def _evidence() -> Evidence:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.number_evidence import NumberEvidence

    return NumberEvidence()


TEXT_REGRESSION = TaskForm(
    rows=lambda _dataset: NumberRows(),
    encoder=number_encoder,
    head=REGRESSION,
    collation=NumberBatches,
    loss=_loss,
    evidence=_evidence,
    finish=_finish,
)
