"""Multi-label classification: for each text all labels that it has, which may be none."""

from finetune_trainer.data.text_encoding import label_encoder
from finetune_trainer.data.texts import LabelRows
from finetune_trainer.evaluation.label_evidence import LabelEvidence
from finetune_trainer.models.heads import MULTI_LABEL
from finetune_trainer.tasks.form import TaskForm
from finetune_trainer.training.losses import label_loss
from finetune_trainer.training.rows import LabelBatches

MULTI_LABEL_CLASSIFICATION = TaskForm(
    rows=lambda _dataset: LabelRows(),
    encoder=label_encoder,
    head=MULTI_LABEL,
    collation=LabelBatches,
    loss=lambda _model, _prepared: label_loss,
    evidence=LabelEvidence(),
)
