"""One image, checked and decoded as a plain transformers pipeline would, or its fault named.

Used by ``image_rows``. Pillow decodes; whatever a file holds ends as an image or as a fault, in
bounded memory: sizes are read from its header first.
"""

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps

from finetune_trainer.data.cleaning import (
    ANIMATED,
    NO_COLOR,
    TOO_LARGE,
    TOO_SMALL,
    TRUNCATED,
    UNREADABLE,
)

MOST_BYTES = 100 << 20
"""A larger file is no image to learn from."""

MOST_PIXELS = 100_000_000
"""What a few bytes may claim to unfold into: 300 MB of memory."""

FEWEST_PIXELS = 8
"""On the shorter side."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats of photographs and scans. Pillow reads others, some of which run programs."""

_ANIMATED_FORMATS = ("GIF", "PNG", "TIFF", "WEBP")
"""Several frames of these are several images. A camera's JPEG may hold a preview, which is none."""

_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"})
"""Modes that RGB can hold. 16-bit and floating-point pixels would be clipped at 255, unseen."""

_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What Pillow's readers raise for a file that is not what its header says."""


@dataclass(frozen=True)
class Decoded:
    """An upright image in RGB, and the mode in which its file holds it."""

    image: Image.Image
    mode: str

    @property
    def key(self) -> str:
        """What is equal for equal pixels, however they are encoded."""
        pixels = hashlib.blake2b(self.image.tobytes(), digest_size=16).hexdigest()
        return f"{self.image.width}x{self.image.height}:{pixels}"


def decode(content: bytes) -> Decoded | str:
    """Decode an image, or say by a name of ``cleaning`` why it can't be used."""
    if len(content) > MOST_BYTES:
        return TOO_LARGE
    try:
        with warnings.catch_warnings():
            # Of sizes, which are looked at here, and of metadata, which nothing reads.
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(content), formats=_FORMATS)
            fault = _fault(opened)
            if fault is not None:
                return fault
            mode = opened.mode
            opened.load()
            return Decoded(ImageOps.exif_transpose(opened).convert("RGB"), mode)
    except Image.DecompressionBombError:
        return TOO_LARGE
    except _BROKEN as error:
        return TRUNCATED if "truncated" in str(error).lower() else UNREADABLE


def _fault(opened: Image.Image) -> str | None:
    if opened.width * opened.height > MOST_PIXELS:
        return TOO_LARGE
    if min(opened.size) < FEWEST_PIXELS:
        return TOO_SMALL
    if opened.format in _ANIMATED_FORMATS and getattr(opened, "n_frames", 1) > 1:
        return ANIMATED
    return None if opened.mode in _MODES else NO_COLOR
