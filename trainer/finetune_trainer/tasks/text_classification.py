"""Text classification: one class for each text."""

from finetune_trainer.data.text_encoding import class_encoder
from finetune_trainer.data.texts import ClassRows
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.tasks.form import Evidence, TaskForm
from finetune_trainer.training.losses import class_loss
from finetune_trainer.training.rows import ClassBatches


def _evidence() -> Evidence:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.class_evidence import ClassEvidence

    return ClassEvidence()


TEXT_CLASSIFICATION = TaskForm(
    rows=lambda _dataset: ClassRows(),
    encoder=class_encoder,
    head=SINGLE_LABEL,
    collation=ClassBatches,
    loss=lambda _model, _prepared: class_loss,
    evidence=_evidence,
)
