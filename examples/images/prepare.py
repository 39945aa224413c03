"""Write scikit-learn's handwritten digits as an image folder, and a small ResNet to learn them.

`claims/images/` in the workspace then holds `digits/CLASS/NUMBER.png`, images of 8 × 8 pixels, and
`resnet/`, a model of random weights with its image processor. Nothing is downloaded: the digits
come with scikit-learn.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ResNetConfig, ResNetModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIDE = 16
"""The model reads images of so many pixels on each side."""

MOST_GRAY = 16
"""The digits' values go from 0 to 16."""


def write_digits(folder: Path) -> int:
    """Write a folder for each digit; returns how many images there are."""
    digits = load_digits()
    gray = np.round(digits.images * (255 / MOST_GRAY)).astype(np.uint8)
    for number, (image, label) in enumerate(zip(gray, digits.target, strict=True)):
        of_class = folder / str(label)
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(of_class / f"{number:04d}.png")
    return len(gray)


def write_model(folder: Path) -> None:
    """Write a ResNet of two stages without a head; the same one each time."""
    torch.manual_seed(7)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[32, 64], depths=[1, 1], layer_type="basic"
    )
    ResNetModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def main() -> None:
    """Write both below the workspace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="Where a local run lives.")
    claim = parser.parse_args().workspace / "claims" / "images"
    rows = write_digits(claim / "digits")
    write_model(claim / "resnet")
    print(f"images: {rows} digits and a model in {claim}")


if __name__ == "__main__":
    main()
