"""Pixels as a model's image processor places them, on disk until their rows have their roles.

Used by ``image_rows``. What a processor does to place and size is done once, when a row is read;
what it does to each value (rescale, normalize) is a factor and a shift per channel, found by asking
the processor itself, and done in each batch: so a byte per value is stored, and nothing is lost.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import BaseImageProcessor

from finetune_trainer.data.image_likeness import THUMBNAIL_BYTES, thumbnail
from finetune_trainer.errors import UsageError

CHANNELS = 3
_VALUES = 256
_PROBE_SIDE = 64
_ROUNDED = 2e-6
"""What rounding may do to numbers of size 1 to 4 in fp32."""

_AS_GIVEN = {"do_resize": False, "do_center_crop": False, "do_pad": False}
_UNSCALED = {"do_rescale": False, "do_normalize": False}

Pixels = NDArray[np.uint8]
"""``[3, height, width]``, or several of them."""


@dataclass(frozen=True)
class PixelForm:
    """What a processor makes of an image: its size, and of each value a factor and a shift.

    Both are ``[3]``, a number per channel.
    """

    height: int
    width: int
    factor: NDArray[np.float32]
    shift: NDArray[np.float32]

    @classmethod
    def of(cls, processor: BaseImageProcessor, uri: str) -> "PixelForm":
        """Ask the processor what it does.

        Raises
        ------
        UsageError
            If it does something else than change an image's place, size and values one by one.
        """
        values = np.arange(_VALUES, dtype=np.uint8).reshape(1, 16, 16)
        every = np.moveaxis(np.repeat(values, CHANNELS, axis=0), 0, -1)
        scaled = _processed(processor, Image.fromarray(every), uri, **_AS_GIVEN)
        if scaled.shape != (CHANNELS, 16, 16):
            raise _unfit(uri, "it does not leave the size of an image as it is when told to")
        probe = _probe()
        placed = arranged(processor, probe, uri)
        levels = scaled.reshape(CHANNELS, _VALUES).astype(np.float64)
        form = cls(
            height=placed.shape[1],
            width=placed.shape[2],
            factor=((levels[:, -1] - levels[:, 0]) / (_VALUES - 1)).astype(np.float32),
            shift=levels[:, 0].astype(np.float32),
        )
        whole = _processed(processor, probe, uri)
        if whole.shape != placed.shape or not np.allclose(
            form.scaled(placed), whole, atol=_ROUNDED
        ):
            raise _unfit(uri, "it does more than resize, crop, rescale and normalize")
        return form

    @property
    def size(self) -> int:
        """Bytes of an image."""
        return CHANNELS * self.height * self.width

    def scaled(self, pixels: Pixels) -> NDArray[np.float32]:
        """The numbers that a model reads, of one image or of several."""
        numbers = pixels.astype(np.float32)
        numbers *= self.factor[:, None, None]
        numbers += self.shift[:, None, None]
        return numbers


def arranged(processor: BaseImageProcessor, image: Image.Image, uri: str) -> Pixels:
    """An RGB image at the place and in the size that the processor gives it."""
    pixels = _processed(processor, image, uri, **_UNSCALED)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) != CHANNELS:
        raise _unfit(uri, "it makes something else of an image than three channels of bytes")
    return pixels


def _processed(
    processor: BaseImageProcessor,
    image: Image.Image,
    uri: str,
    **settings: Any,  # each its own
) -> NDArray[Any]:
    try:
        made = processor(images=image, return_tensors="np", **settings)["pixel_values"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        size = f"{image.width} × {image.height}"
        raise _unfit(uri, f"it fails on an image of {size} pixels ({error})") from error
    return np.asarray(made[0])


def _probe() -> Image.Image:
    """An image of every value, at random, but always the same."""
    random = np.random.RandomState(0)
    shape = (_PROBE_SIDE, _PROBE_SIDE, CHANNELS)
    return Image.fromarray(random.randint(0, _VALUES, shape).astype(np.uint8))


def _unfit(uri: str, why: str) -> UsageError:
    return UsageError(
        f"model.uri: {uri}: its image processor (preprocessor_config.json) can't be used: {why}; "
        "take one of the kind of ViTImageProcessor"
    )


class PixelStore:
    """Images of one form in a file, and encoded originals that have no file of their own.

    It belongs to one prepare step, which removes the folder.
    """

    def __init__(self, processor: BaseImageProcessor, uri: str, folder: Path) -> None:
        self._processor = processor
        self._uri = uri
        self.form = PixelForm.of(processor, uri)
        folder.mkdir(parents=True, exist_ok=True)
        self._pixels = folder / "pixels"
        self._thumbnails = folder / "thumbnails"
        self._originals = folder / "originals"
        self._stored = 0

    def add(self, image: Image.Image) -> int:
        """Store an RGB image as the model reads it, and its thumbnail; returns its place.

        Raises
        ------
        UsageError
            If the processor makes another size of it than of others.
        """
        pixels = arranged(self._processor, image, self._uri)
        if pixels.shape[1:] != (self.form.height, self.form.width):
            raise _unfit(
                self._uri,
                f"it makes {pixels.shape[2]} × {pixels.shape[1]} pixels of a {image.width} × "
                f"{image.height} image and {self.form.width} × {self.form.height} of a square "
                "one; set do_center_crop, or a size of height and width",
            )
        with self._pixels.open("ab") as file:
            file.write(np.ascontiguousarray(pixels).tobytes())
        with self._thumbnails.open("ab") as file:
            file.write(thumbnail(image))
        self._stored += 1
        return self._stored - 1

    def pixels(self, place: int) -> bytes:
        """An image by its place, channel by channel."""
        with self._pixels.open("rb") as file:
            file.seek(place * self.form.size)
            return file.read(self.form.size)

    def thumbnail(self, place: int) -> bytes:
        """What near copies are known by, of an image by its place."""
        with self._thumbnails.open("rb") as file:
            file.seek(place * THUMBNAIL_BYTES)
            return file.read(THUMBNAIL_BYTES)

    def keep(self, content: bytes) -> tuple[int, int]:
        """Store an encoded original; returns where it begins, and its length."""
        with self._originals.open("ab") as file:
            begin = file.seek(0, 2)
            file.write(content)
        return begin, len(content)

    def kept(self, span: tuple[int, int]) -> bytes:
        """An encoded original by where it is."""
        with self._originals.open("rb") as file:
            file.seek(span[0])
            return file.read(span[1])
