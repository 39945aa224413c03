"""Photographs that come with scikit-learn, cut into images that show different things."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def photographs() -> dict[str, Image]:
    """A temple in China and a flower, of 640 × 427 pixels."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    temple, flower = (Image.fromarray(one) for one in load_sample_images().images)
    return {"china": temple, "flower": flower}


def tiles(photograph: Image, side: int) -> list[Image]:
    """What lies side by side in it, row by row; no two share a pixel."""
    return [
        photograph.crop((x, y, x + side, y + side))
        for y in range(0, photograph.height - side + 1, side)
        for x in range(0, photograph.width - side + 1, side)
    ]


def jpeg(image: Image, quality: int) -> Image:
    """The image as a JPEG of that quality shows it."""
    from PIL import Image

    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")
