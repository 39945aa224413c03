"""Varies training images, each by numbers that depend on the seed and on its turn alone.

So the same global batch holds the same pixels on any number of ranks, and an attempt that resumes
sees what it would have seen. ``rows.StepStream`` asks for it; the other roles are never varied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from finetune_api.images import Augmentation
from finetune_trainer.data.pixels import Pixels
from finetune_trainer.training.image_batches import ImageBatches
from finetune_trainer.training.rows import PIXELS, Columns

_DRAWS = 10
_STREAM = 0x1A6E
"""Tells these numbers from others that are drawn from the same seed."""


@dataclass(frozen=True)
class Variation:
    """Varies rows of images; the batches tell how their pixels lie in the columns."""

    settings: Augmentation
    seed: int
    batches: ImageBatches

    def __call__(self, columns: Columns, turns: Sequence[int]) -> Columns:
        """The columns with each row's image as it is at its turn in the training.

        A row has one in each epoch, and more where balanced sampling draws it again.
        """
        varied = [
            vary(image, self.settings, drawn(self.seed, turn)).tobytes()
            for image, turn in zip(self.batches.pixels(columns[PIXELS]), turns, strict=True)
        ]
        return {**columns, PIXELS: varied}


def drawn(seed: int, turn: int) -> tuple[float, ...]:
    """The numbers in [0, 1) that vary one row at one turn.

    As many whatever is varied, so that one more operation leaves the others as they were.
    """
    # The legacy generator's stream is frozen for good, and a resume may find a newer numpy.
    numbers = np.random.RandomState([seed, turn, _STREAM]).random_sample(_DRAWS)
    return tuple(float(number) for number in numbers)


def vary(image: Pixels, settings: Augmentation, draws: Sequence[float]) -> Pixels:
    """An image, ``[3, height, width]``, varied by numbers in [0, 1).

    What is uncovered at an edge repeats the edge's pixels, but the corners of a rotation, which are
    gray as the image is in the mean.
    """
    flip, flop, area, left, top, across, down, angle, bright, contrast = draws
    varied = image
    if settings.horizontal_flip and flip < 0.5:
        varied = varied[:, :, ::-1]
    if settings.vertical_flip and flop < 0.5:
        varied = varied[:, ::-1]
    if settings.min_crop_percent is not None:
        varied = _cropped(varied, settings.min_crop_percent / 100, (area, left, top))
    if settings.shift_percent is not None:
        varied = _shifted(varied, settings.shift_percent / 100, (down, across))
    if settings.rotation_degrees is not None:
        varied = _rotated(varied, settings.rotation_degrees * (2 * angle - 1))
    if settings.brightness_percent is not None:
        factor = 1 + settings.brightness_percent / 100 * (2 * bright - 1)
        varied = _pixels(ImageEnhance.Brightness(_image(varied)).enhance(factor))
    if settings.contrast_percent is not None:
        factor = 1 + settings.contrast_percent / 100 * (2 * contrast - 1)
        varied = _pixels(ImageEnhance.Contrast(_image(varied)).enhance(factor))
    return np.ascontiguousarray(varied)


def _cropped(image: Pixels, least: float, draws: tuple[float, float, float]) -> Pixels:
    """A piece of the image's own shape, enlarged to its size."""
    _, height, width = image.shape
    side = (least + (1 - least) * draws[0]) ** 0.5
    left, top = (1 - side) * width * draws[1], (1 - side) * height * draws[2]
    box = (left, top, left + side * width, top + side * height)
    return _pixels(_image(image).resize((width, height), Image.Resampling.BILINEAR, box=box))


def _shifted(image: Pixels, most: float, draws: tuple[float, float]) -> Pixels:
    """Moved by whole pixels."""
    shifted = image
    for axis, draw in enumerate(draws, start=1):
        length = image.shape[axis]
        by = round(most * length * (2 * draw - 1))
        shifted = shifted.take(np.clip(np.arange(length) - by, 0, length - 1), axis=axis)
    return shifted


def _rotated(image: Pixels, degrees: float) -> Pixels:
    mean = tuple(int(value) for value in image.reshape(len(image), -1).mean(axis=1).round())
    turned = _image(image).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=mean)
    return _pixels(turned)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)))


def _pixels(image: Image.Image) -> Pixels:
    return np.moveaxis(np.asarray(image), -1, 0)
