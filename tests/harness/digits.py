"""Scikit-learn's handwritten digits as images, and models of images that are small enough to train.

The 1,797 digits of 8 × 8 pixels come with the package. For tiers that train.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 16
"""The models read images of so many pixels on each side."""


def digits() -> list[tuple[Image, str]]:
    """Each digit as a gray image, and its class: zero to nine in digits."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    gray = np.round(found.images * (255 / 16)).astype(np.uint8)
    return [
        (Image.fromarray(one), str(label)) for one, label in zip(gray, found.target, strict=True)
    ]


def write_digits(folder: Path, rows: int | None = None) -> None:
    """Write a folder of classes of the first digits, as CLASS/NUMBER.png."""
    for number, (image, label) in enumerate(digits()[:rows]):
        of_class = folder / label
        of_class.mkdir(parents=True, exist_ok=True)
        image.save(of_class / f"{number:04d}.png")


def write_tiny_resnet(folder: Path, **changes: Any) -> None:
    """Write a random ResNet of two stages without a head, with its image processor."""
    import torch
    from transformers import ResNetConfig, ResNetModel

    torch.manual_seed(7)
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        layer_type="basic",
        **changes,
    )
    ResNetModel(config).save_pretrained(folder)
    write_processor(folder)


def write_tiny_vit(folder: Path) -> None:
    """Write a random ViT of two layers without a head, with its image processor."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(7)
    config = ViTConfig(
        image_size=SIDE,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        # So small a model would begin with next to no signal at the usual 0.02.
        initializer_range=0.1,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    write_processor(folder)


def write_processor(folder: Path, **settings: Any) -> None:
    """Write an image processor beside a model."""
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    processor = ViTImageProcessorPil(**({"size": {"height": SIDE, "width": SIDE}} | settings))
    processor.save_pretrained(folder)
