"""Rows of images as tensors: stored bytes, scaled as the model's image processor does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune_trainer.data.pixels import CHANNELS, PixelForm, Pixels
from finetune_trainer.training.rows import PIXELS, Batch, Columns


@dataclass(frozen=True)
class ImageBatches:
    """Images with a class each: ``pixel_values`` is ``[rows, 3, height, width]`` in fp32."""

    form: PixelForm
    columns: Sequence[str] = (PIXELS, "label")

    def batch(self, rows: Columns) -> Batch:
        """Scaled pixels and class numbers."""
        return {
            "pixel_values": torch.from_numpy(self.form.scaled(self.pixels(rows[PIXELS]))),
            "labels": torch.tensor(rows["label"], dtype=torch.long),
        }

    def pixels(self, stored: Sequence[Any]) -> Pixels:
        """Stored bytes as ``[rows, 3, height, width]``."""
        flat = np.frombuffer(b"".join(stored), dtype=np.uint8)
        return flat.reshape(len(stored), CHANNELS, self.form.height, self.form.width)
