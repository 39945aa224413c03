"""Image classification: one class for each image."""

from collections.abc import Sequence
from pathlib import Path

from transformers import BaseImageProcessor

from finetune_api.datareport import ImageStatistics
from finetune_trainer.data.form import AnyCleanRow, AnyForm
from finetune_trainer.data.image_rows import ImageRows, describe, image_encoder
from finetune_trainer.data.originals import keep_originals
from finetune_trainer.data.pixels import PixelStore
from finetune_trainer.models.heads import IMAGES
from finetune_trainer.models.processors import Processor
from finetune_trainer.tasks.form import Evidence, TaskForm
from finetune_trainer.training.image_batches import ImageBatches
from finetune_trainer.training.losses import class_loss


class _Images:
    """What is done with images that are rows' whole input."""

    def decoded(self, processor: Processor, uri: str, folder: Path) -> AnyForm:
        assert isinstance(processor, BaseImageProcessor)
        return ImageRows(store=PixelStore(processor, uri, folder))

    def describe(
        self, rows: Sequence[AnyCleanRow], families: Sequence[int] | None
    ) -> ImageStatistics:
        return describe(rows, families)

    def keep(self, rows: Sequence[AnyCleanRow], folder: Path) -> None:
        keep_originals(rows, folder)


def _evidence() -> Evidence:
    # It brings libraries that take a second, for what a rank in training never asks.
    from finetune_trainer.evaluation.image_evidence import ImageEvidence

    return ImageEvidence()


IMAGE_CLASSIFICATION = TaskForm(
    rows=lambda _dataset: ImageRows(),
    images=_Images(),
    encoder=image_encoder,
    head=IMAGES,
    collation=ImageBatches,
    loss=lambda _model, _prepared: class_loss,
    evidence=_evidence,
)
