"""Text classification: one class for each text."""

from finetune_trainer.data.text_encoding import class_encoder
from finetune_trainer.data.texts import ClassRows
from finetune_trainer.evaluation.class_evidence import ClassEvidence
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.tasks.form import TaskForm
from finetune_trainer.training.losses import class_loss
from finetune_trainer.training.rows import ClassBatches

TEXT_CLASSIFICATION = TaskForm(
    rows=lambda _dataset: ClassRows(),
    encoder=class_encoder,
    head=SINGLE_LABEL,
    collation=ClassBatches,
    loss=lambda _model, _prepared: class_loss,
    evidence=ClassEvidence(),
)
