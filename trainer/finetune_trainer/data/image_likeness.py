"""Which images are nearly the same: encoded anew, resized, brightened or cropped a little.

Used by ``image_rows`` and ``pixels``. Images are compared as thumbnails of 32 × 32 pixels in RGB.
Pairs that may be near copies are found by the signs of their lowest frequencies, a perceptual hash
(Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"); signs that are
nearly a toss-up are taken both ways (Lv et al. 2007, "Multi-probe LSH"). Each pair is then laid on
top of each other (Lucas and Kanade 1981: place and scale on both axes, gain and shift of light),
and is near if the structure of every part agrees (the third factor of SSIM: Wang et al. 2004,
"Image quality assessment") and so do the colors. Keys are counted in integers: they depend on no
machine.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from finetune_trainer.data.cleaning import TOO_PLAIN
from finetune_trainer.data.likeness import Keys

SIDE = 32
THUMBNAIL_BYTES = 3 * SIDE**2
FEWEST_PIXELS = 32
"""On the shorter side: of smaller ones the thumbnail shows pixels that are not there."""
LEAST_STRUCTURE = 0.85
"""In every part, of 1 for equal ones. Pages of one form that are filled in differently reach 0.81
in their worst part, photographs saved at JPEG quality 10 have 0.91."""
MOST_COLOR = 16.0
"""What colors may differ by, of 255 levels: JPEG at quality 10 makes 8 of it."""
LEAST_FINE = 0.02
"""The share of contrast in frequencies above the twelfth. A gradient, such as a clear sky, has
less, and is like every other one."""
FINE = 0.1
"""With less, little is there that could differ: handwritten digits of 8 × 8 pixels have 0.08 at
whatever size, photographs 0.14 and more, nine of ten."""
LEAST_PLAIN_STRUCTURE = 0.97
"""In every part of such images. The most alike digits reach 0.94, copies of photographs that are
out of focus have 0.98."""
LEAST_DETAILED = 0.125
"""The share of parts with some contrast: an empty page has nothing to be known by."""

_PART = 8
_STEP = 2
_CONTRAST = (0.03 * 255) ** 2
"""SSIM's constant: a part of less variance is flat, and has no structure."""
_LEAST_CONTRAST = 0.5
"""SSIM's second factor: in no part may one have four times the contrast of the other."""
_FAINT = 1 / 3
"""Of the variance that makes a part detailed: what is left at 0.6 of the light."""
_FINE_FROM = 12
_MOST_SCALED = 0.17
_MOST_MOVED = 0.08
"""Of the side: enough for what lacks 5 % at each edge, and too little for a tenth."""
_LEAST_GAIN = 0.3
_STARTS = (0.0, 0.1, -0.1)
"""Scales from which the fit begins: from the full frame alone it misses the larger crops."""
_SETTLED = 1e-3
_LEAST_FIT = 0.8
_FITS = 0.97
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

_LUMA = np.asarray((299, 587, 114), dtype=np.int64)
_COSINES = np.rint(
    1024 * np.cos(np.pi * np.outer(np.arange(_FINE_FROM), 2 * np.arange(SIDE) + 1) / (2 * SIDE))
).astype(np.int64)
_NORMS = np.where(np.arange(_FINE_FROM) == 0, 1, 2) / (SIDE * 1024**2)
_ORDER = sorted(
    ((y, x) for y in range(_LOWEST) for x in range(_LOWEST) if y + x),
    key=lambda at: (sum(at), max(at), at),
)
"""Frequencies but for the mean, the lowest first."""

Thumbnail = npt.NDArray[np.uint8]
"""``[32, 32, 3]``."""
Numbers = npt.NDArray[np.float64]


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
            variances = _variances(thumbnails @ _LUMA / _LUMA.sum())
            fine = _fine_share(thumbnails, transformed)
            usable = fine >= LEAST_FINE
            usable &= [min(one.width, one.height) >= FEWEST_PIXELS for one in some]
            untold += (begin + np.flatnonzero(~usable | ~_is_detailed(variances))).tolist()
            # A darker copy of what has just enough detail is found, too.
            usable &= _is_detailed(variances / _FAINT)
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
        _COSINES @ (thumbnails.astype(np.int64) @ _LUMA) @ _COSINES.T
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
    contrast = np.maximum((thumbnails.astype(np.int64) @ _LUMA).var((1, 2)) * SIDE**2, 1)
    share: Numbers = np.sqrt(np.maximum(contrast - coarse, 0) / contrast)
    return share


def _variances(pixels: Numbers) -> Numbers:
    """Of the pixels of each part."""
    variances: Numbers = np.maximum(_in_parts(pixels**2) - _in_parts(pixels) ** 2, 0)
    return variances


def _is_detailed(variances: Numbers) -> npt.NDArray[np.bool_]:
    """Whether enough parts have contrast."""
    detailed: npt.NDArray[np.bool_] = (variances > _CONTRAST).mean((-2, -1)) >= LEAST_DETAILED
    return detailed


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


def agree(one: Thumbnail, other: Thumbnail, least: float = LEAST_STRUCTURE) -> bool:
    """Whether two thumbnails show the same, but for encoding, size, light and a little framing.

    ``least`` is how far the structure of their least alike part has to agree.
    """
    first, second = _gray(one), _gray(other)
    fit = _best_fit(first, second)
    if fit is None:
        return False
    laid = _Laid(fit, SIDE)
    seen = first[laid.frame]
    placed = laid.placed(second)[laid.frame]
    variances = _variances(seen), _variances(placed)
    shared = _in_parts(seen * placed) - _in_parts(seen) * _in_parts(placed)
    structure = (shared + _CONTRAST / 2) / (np.sqrt(variances[0] * variances[1]) + _CONTRAST / 2)
    either = np.maximum(*variances)
    if not _is_detailed(either) or structure[either > _CONTRAST].min() < least:
        return False
    # A flat part has no structure to disagree by, as where one page is written on and one is not.
    gain = np.cov(seen.ravel(), placed.ravel(), bias=True)[0, 1] / placed.var()
    lit = variances[1] * gain**2
    contrast = (2 * np.sqrt(variances[0] * lit) + _CONTRAST) / (variances[0] + lit + _CONTRAST)
    if contrast.min() < _LEAST_CONTRAST:
        return False
    differences = [
        _in_parts(of_first[laid.frame]) - gain * _in_parts(laid.placed(of_second)[laid.frame])
        for of_first, of_second in zip(_colors(one), _colors(other), strict=True)
    ]
    return float(np.sqrt(np.mean(np.square(differences)))) <= MOST_COLOR


def _gray(pixels: Thumbnail) -> Numbers:
    gray: Numbers = pixels @ _LUMA / _LUMA.sum()
    return gray


def _colors(pixels: Thumbnail) -> Iterator[Numbers]:
    """How much redder and bluer than green each pixel is."""
    levels = pixels.astype(np.float64)
    yield levels[:, :, 0] - levels[:, :, 1]
    yield levels[:, :, 2] - levels[:, :, 1]


def _in_parts(pixels: Numbers) -> Numbers:
    """The mean of each part of 8 × 8 pixels, every second one of them; ``[..., rows, columns]``."""
    around = [(0, 0)] * (pixels.ndim - 2) + [(1, 0), (1, 0)]
    sums = np.pad(pixels.cumsum(-2).cumsum(-1), around)
    every = sums[..., _PART:, _PART:] - sums[..., :-_PART, _PART:]
    every -= sums[..., _PART:, :-_PART] - sums[..., :-_PART, :-_PART]
    means: Numbers = every[..., ::_STEP, ::_STEP] / _PART**2
    return means


class _Laid:
    """An image laid on another: ``fit`` is scale and shift of rows, then of columns."""

    def __init__(self, fit: Numbers, side: int) -> None:
        self._rows, in_rows = _resampled(fit[0], fit[1], side)
        self._columns, in_columns = _resampled(fit[2], fit[3], side)
        self.frame = np.ix_(in_rows, in_columns)
        """The part of the frame that both show."""
        self.shown = np.outer(in_rows, in_columns)

    def placed(self, pixels: Numbers) -> Numbers:
        """The image moved and scaled, without light."""
        moved: Numbers = self._rows @ pixels @ self._columns.T
        return moved


def _resampled(scale: float, shift: float, side: int) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """Weights ``[side, side]`` that interpolate, and which places lie within the image."""
    middle = (side - 1) / 2
    places = middle + (1 + scale) * (np.arange(side) - middle) + shift * side
    inside = np.minimum(np.maximum(places, 0), side - 1)
    weights = np.maximum(0, 1 - np.abs(inside[:, None] - np.arange(side)))
    return weights, (places >= -0.5) & (places <= side - 0.5)


def _best_fit(first: Numbers, second: Numbers) -> Numbers | None:
    """Scale and shift that lay the second on the first, found at half the size and then refined."""
    halves = _halved(first), _halved(second)
    best, best_fit = _LEAST_FIT, None
    for scale in _STARTS:
        fit = _refined(*halves, np.asarray((scale, 0.0, scale, 0.0)), rounds=4)
        if fit is None:
            continue
        laid = _Laid(fit, SIDE // 2)
        seen, placed = halves[0][laid.frame], laid.placed(halves[1])[laid.frame]
        likeness = float(np.corrcoef(seen.ravel(), placed.ravel())[0, 1])
        if likeness > best:
            best, best_fit = likeness, fit
        if best > _FITS:
            break
    return None if best_fit is None else _refined(first, second, best_fit, rounds=3)


def _halved(pixels: Numbers) -> Numbers:
    halved: Numbers = pixels.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    return halved


def _refined(first: Numbers, second: Numbers, fit: Numbers, rounds: int) -> Numbers | None:
    """Least squares over scales, shifts, gain and light (Gauss-Newton); None if it leads away."""
    side = len(first)
    from_middle = (np.arange(side) - (side - 1) / 2) / side
    for _ in range(rounds):
        laid = _Laid(fit, side)
        placed = laid.placed(second)
        down, right = (slope * side for slope in np.gradient(placed))
        slopes = (
            np.stack(
                [
                    down * from_middle[:, None],
                    down,
                    right * from_middle,
                    right,
                    placed,
                    np.ones_like(placed),
                ]
            ).reshape(6, -1)
            * laid.shown.ravel()
        )
        # The ridge is nothing but a guard where an image is flat.
        solved = np.linalg.solve(slopes @ slopes.T + 1e-6 * np.eye(6), slopes @ first.ravel())
        if solved[4] < _LEAST_GAIN:
            return None
        step = np.clip(solved[:4] / solved[4], -0.06, 0.06)
        fit = fit + step
        if np.abs(fit[::2]).max() > _MOST_SCALED or np.abs(fit[1::2]).max() > _MOST_MOVED:
            return None
        if np.abs(step).max() < _SETTLED:
            break
    return fit
