"""Multi-label classification: for each text all labels that it has, which may be none."""

from finetune_trainer.data.text_encoding import label_encoder
from finetune_trainer.data.texts import LabelRows
from finetune_trainer.models.heads import MULTI_LABEL
from finetune_trainer.tasks.form import Evidence, TaskForm
from finetune_trainer.training.losses import label_loss
from finetune_trainer.training.rows import LabelBatches


def _evidence() -> Evidence:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.label_evidence import LabelEvidence

    return LabelEvidence()


MULTI_LABEL_CLASSIFICATION = TaskForm(
    rows=lambda _dataset: LabelRows(),
    encoder=label_encoder,
    head=MULTI_LABEL,
    collation=LabelBatches,
    loss=lambda _model, _prepared: label_loss,
    evidence=_evidence,
)
