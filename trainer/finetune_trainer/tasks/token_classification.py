"""Token classification: a tag for each word of a row, of entities or of parts of speech."""

from finetune_trainer.data.tag_encoding import TagEncoder
from finetune_trainer.data.tagged import TagRows
from finetune_trainer.models.heads import TAGS
from finetune_trainer.tasks.form import Evidence, TaskForm
from finetune_trainer.training.losses import tag_loss
from finetune_trainer.training.rows import TagBatches


def _evidence() -> Evidence:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.tag_evidence import TagEvidence

    return TagEvidence()


TOKEN_CLASSIFICATION = TaskForm(
    rows=TagRows.of,
    encoder=TagEncoder,
    head=TAGS,
    collation=TagBatches,
    loss=lambda _model, _prepared: tag_loss,
    evidence=_evidence,
)
