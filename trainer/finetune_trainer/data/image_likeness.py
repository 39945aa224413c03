"""Which images are nearly the same: encoded anew, resized, brightened or cropped a little.

Used by ``image_rows`` and ``pixels``. Images are compared as thumbnails of 32 × 32 pixels in RGB.
Pairs that may be near copies are found by the signs of their lowest frequencies, a perceptual hash
(Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"); signs that are
nearly a toss-up are taken both ways (Lv et al. 2007, "Multi-probe LSH"). Each pair is then compared
itself (``image_agreement``). Keys are counted in integers: they depend on no machine.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune_trainer.data.cleaning import TOO_PLAIN
from finetune_trainer.data.image_agreement import (
    LEAST_STRUCTURE,
    LUMA,
    SIDE,
    Numbers,
    Thumbnail,
    agree,
    gray_of,
    is_detailed,
    part_variances,
)
from finetune_trainer.data.likeness import Keys

THUMBNAIL_BYTES = 3 * SIDE**2
FEWEST_PIXELS = 32
"""On the shorter side: of smaller ones the thumbnail shows pixels that are not there."""
LEAST_FINE = 0.02
"""The share of contrast in frequencies above the twelfth. A gradient, such as a clear sky, has
less, and is like every other one."""
FINE = 0.1
"""With less, little is there that could differ: handwritten digits of 8 × 8 pixels have 0.08 at
whatever size, photographs 0.14 and more, nine of ten."""
LEAST_PLAIN_STRUCTURE = 0.97
"""In every part of such images. The most alike digits reach 0.94, copies of photographs that are
out of focus have 0.98."""
_FAINT = 1 / 3
"""Of the variance that makes a part detailed: what is left at 0.6 of the light."""
_FINE_FROM = 12
_LEAST_COSINE = 0.5
"""Of the lowest frequencies: a pair below is not looked at. One copy in ten that lacks 5 % at each
edge has less than 0.79."""
_SURE_COSINE = 0.94
"""What copies have that are not cropped, or hardly."""
_FEW_APART = 8
"""After so many others in vain, a row is compared with none below that ..."""
_MOST_APART = 32
"""... and after so many with none: to lay one image on another takes a millisecond."""

_LOWEST = 8
_BANDS = 2
_BITS = 16
_TOSS_UPS = 4
_ROWS_AT_ONCE = 1024

_COSINES = np.rint(
    1024 * np.cos(np.pi * np.outer(np.arange(_FINE_FROM), 2 * np.arange(SIDE) + 1) / (2 * SIDE))
).astype(np.int64)
_NORMS = np.where(np.arange(_FINE_FROM) == 0, 1, 2) / (SIDE * 1024**2)
_ORDER = sorted(
    ((y, x) for y in range(_LOWEST) for x in range(_LOWEST) if y + x),
    key=lambda at: (sum(at), max(at), at),
)
"""Frequencies but for the mean, the lowest first."""


def thumbnail(image: Image.Image) -> bytes:
    """An RGB image squeezed into 32 × 32 pixels."""
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).tobytes()


class Pictured(Protocol):
    """An image with its size, from which a thumbnail can be had."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def height(self) -> int:
        """In pixels."""

    def thumbnail(self) -> bytes:
        """As ``thumbnail`` made it."""


class ImageLikeness:
    """Images by their thumbnails, which are read again for each pair that is compared."""

    untold = TOO_PLAIN

    def __init__(self, images: Sequence[Pictured]) -> None:
        self._images = images
        self._shapes = np.zeros((len(images), len(_ORDER)), dtype=np.float32)
        self._is_fine = np.zeros(len(images), dtype=np.bool_)
        self._apart: defaultdict[int, set[int]] = defaultdict(set)

    def keys(self) -> Keys:
        """The signs of frequencies, those closest to 0 both ways."""
        places: list[npt.NDArray[np.int64]] = [np.empty(0, dtype=np.int64)]
        bands = [np.empty((0, _BANDS, 1 << _TOSS_UPS), dtype=np.uint16)]
        untold: list[int] = []
        for begin in range(0, len(self._images), _ROWS_AT_ONCE):
            some = self._images[begin : begin + _ROWS_AT_ONCE]
            thumbnails = np.stack([_pixels(one) for one in some])
            transformed = _transformed(thumbnails)
            frequencies = _frequencies(transformed)
            variances = part_variances(gray_of(thumbnails))
            fine = _fine_share(thumbnails, transformed)
            usable = fine >= LEAST_FINE
            usable &= [min(one.width, one.height) >= FEWEST_PIXELS for one in some]
            untold += (begin + np.flatnonzero(~usable | ~is_detailed(variances))).tolist()
            # A darker copy of what has just enough detail is found, too.
            usable &= is_detailed(variances / _FAINT)
            kept = begin + np.flatnonzero(usable)
            self._is_fine[kept] = fine[usable] >= FINE
            shapes = frequencies[usable].astype(np.float64)
            shapes /= np.linalg.norm(shapes, axis=1, keepdims=True)
            self._shapes[kept] = shapes
            places.append(kept)
            bands.append(_band_keys(frequencies[usable]))
        return Keys(np.concatenate(places), np.concatenate(bands), untold)

    def is_near(self, later: int, earlier: int) -> bool:
        """Whether they agree once one is laid on the other."""
        apart = self._apart[later]
        least = _LEAST_COSINE if len(apart) < _FEW_APART else _SURE_COSINE
        if len(apart) == _MOST_APART or earlier in apart:
            return False
        if self._shapes[later] @ self._shapes[earlier] < least:
            return False
        is_fine = self._is_fine[later] or self._is_fine[earlier]
        near = agree(
            _pixels(self._images[earlier]),
            _pixels(self._images[later]),
            least=LEAST_STRUCTURE if is_fine else LEAST_PLAIN_STRUCTURE,
        )
        if not near:
            # They may share further keys.
            apart.add(earlier)
        return near


def _pixels(image: Pictured) -> Thumbnail:
    return np.frombuffer(image.thumbnail(), dtype=np.uint8).reshape(SIDE, SIDE, 3)


def _transformed(thumbnails: Thumbnail) -> npt.NDArray[np.int64]:
    """Twelve frequencies of each axis, ``[images, 12, 12]``, in integers."""
    frequencies: npt.NDArray[np.int64] = (
        _COSINES @ (thumbnails.astype(np.int64) @ LUMA) @ _COSINES.T
    )
    return frequencies


def _frequencies(transformed: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The lowest of them, ``[images, 63]``."""
    rows, columns = np.transpose(_ORDER)
    return transformed[:, rows, columns]


def _fine_share(thumbnails: Thumbnail, transformed: npt.NDArray[np.int64]) -> Numbers:
    """The share of each thumbnail's contrast that is in no such frequency."""
    energy = transformed.astype(np.float64) ** 2 * np.outer(_NORMS, _NORMS)
    coarse = energy.sum((1, 2)) - energy[:, 0, 0]
    contrast = np.maximum((thumbnails.astype(np.int64) @ LUMA).var((1, 2)) * SIDE**2, 1)
    share: Numbers = np.sqrt(np.maximum(contrast - coarse, 0) / contrast)
    return share


def _band_keys(frequencies: npt.NDArray[np.int64]) -> npt.NDArray[np.uint16]:
    """``[images, bands, 16]``: each band's signs as bits, with the least sure ones in all ways."""
    keys = np.empty((len(frequencies), _BANDS, 1 << _TOSS_UPS), dtype=np.uint16)
    for band in range(_BANDS):
        chosen = slice(band * _BITS, (band + 1) * _BITS)
        of_band = frequencies[:, chosen]
        # Higher frequencies are weaker, and their signs as sure.
        strength = np.abs(of_band) * (1 + np.sum(_ORDER[chosen], axis=1))
        toss_ups = np.argsort(strength, axis=1, kind="stable")[:, :_TOSS_UPS]
        bits = (of_band > 0) @ (1 << np.arange(_BITS))
        for way in range(1 << _TOSS_UPS):
            flipped = [1 << toss_ups[:, one] for one in range(_TOSS_UPS) if way >> one & 1]
            keys[:, band, way] = bits ^ sum(flipped)
    return keys
