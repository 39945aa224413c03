"""Whether two thumbnails show the same: encoded anew, resized, brightened or cropped a little.

Used by ``image_likeness``. One is laid on the other (Lucas and Kanade 1981: place and scale on both
axes, gain and shift of light). They agree if the structure of every part does (the third factor of
SSIM: Wang et al. 2004, "Image quality assessment"), and its contrast and the colors do, too.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

SIDE = 32
LEAST_STRUCTURE = 0.85
"""In every part, of 1 for equal ones. Pages of one form that are filled in differently reach 0.81
in their worst part, photographs saved at JPEG quality 10 have 0.91."""
MOST_COLOR = 16.0
"""What colors may differ by, of 255 levels: JPEG at quality 10 makes 8 of it."""
LEAST_DETAILED = 0.125
"""The share of parts with some contrast: an empty page has nothing to be known by."""

_PART = 8
_STEP = 2
_CONTRAST = (0.03 * 255) ** 2
"""SSIM's constant: a part of less variance is flat, and has no structure."""
_LEAST_CONTRAST = 0.5
"""SSIM's second factor: in no part may one have four times the contrast of the other."""
_MOST_SCALED = 0.17
_MOST_MOVED = 0.08
"""Of the side: enough for what lacks 5 % at each edge, and too little for a tenth."""
_LEAST_GAIN = 0.3
_STARTS = (0.0, 0.1, -0.1)
"""Scales from which the fit begins: from the full frame alone it misses the larger crops."""
_SETTLED = 1e-3
_LEAST_FIT = 0.8
_FITS = 0.97

LUMA = np.asarray((299, 587, 114), dtype=np.int64)

Thumbnail = npt.NDArray[np.uint8]
"""``[32, 32, 3]``."""
Numbers = npt.NDArray[np.float64]


def agree(one: Thumbnail, other: Thumbnail, least: float = LEAST_STRUCTURE) -> bool:
    """Whether two thumbnails show the same, but for encoding, size, light and a little framing.

    ``least`` is how far the structure of their least alike part has to agree.
    """
    first, second = gray_of(one), gray_of(other)
    fit = _best_fit(first, second)
    if fit is None:
        return False
    laid = _Laid(fit, SIDE)
    seen = first[laid.frame]
    placed = laid.placed(second)[laid.frame]
    variances = part_variances(seen), part_variances(placed)
    shared = _in_parts(seen * placed) - _in_parts(seen) * _in_parts(placed)
    structure = (shared + _CONTRAST / 2) / (np.sqrt(variances[0] * variances[1]) + _CONTRAST / 2)
    either = np.maximum(*variances)
    if not is_detailed(either) or structure[either > _CONTRAST].min() < least:
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


def gray_of(pixels: Thumbnail) -> Numbers:
    """How light each pixel is, of one thumbnail or of many."""
    gray: Numbers = pixels @ LUMA / LUMA.sum()
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


def part_variances(pixels: Numbers) -> Numbers:
    """Of the pixels of each part."""
    variances: Numbers = np.maximum(_in_parts(pixels**2) - _in_parts(pixels) ** 2, 0)
    return variances


def is_detailed(variances: Numbers) -> npt.NDArray[np.bool_]:
    """Whether enough parts have contrast."""
    detailed: npt.NDArray[np.bool_] = (variances > _CONTRAST).mean((-2, -1)) >= LEAST_DETAILED
    return detailed
