"""Measures which changed copies of images are found, and what is called a copy and is none.

`make bench-images` prints the table of docs/benchmarks.md. The images are cut out of the two
photographs of scikit-learn, and its handwritten digits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from PIL import Image, ImageEnhance

from finetune_trainer.data.image_likeness import ImageLikeness, thumbnail
from finetune_trainer.data.likeness import find_copies
from harness.digits import digits
from harness.photographs import jpeg, photographs, tiles

TILE = 80
CUTS = (1000, 4000)
_SMALLEST_CUT, _LARGEST_CUT = 80, 200
say = partial(print, flush=True)
Change = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Picture:
    """An image in memory, with its thumbnail."""

    image: Image.Image

    @property
    def width(self) -> int:
        return self.image.width

    @property
    def height(self) -> int:
        return self.image.height

    @cached_property
    def _made(self) -> bytes:
        return thumbnail(self.image.convert("RGB"))

    def thumbnail(self) -> bytes:
        return self._made


def scaled(image: Image.Image, width: float, height: float) -> Image.Image:
    return image.resize((round(image.width * width), round(image.height * height)))


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without that share at each edge."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def lit(image: Image.Image, light: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(light)


def contrasted(image: Image.Image, contrast: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(contrast)


def several(image: Image.Image) -> Image.Image:
    return jpeg(lit(scaled(cropped(image, 0.01), 0.8, 0.8), 1.08), 60)


def changes() -> Iterator[tuple[str, Change]]:
    """What is done to an image, each by its name."""
    for quality in (90, 75, 50, 30, 10):
        yield f"JPEG at quality {quality}", partial(jpeg, quality=quality)
    for width, height in ((0.5, 0.5), (2, 2), (1, 0.8)):
        yield f"{width:g} × {height:g} of the size", partial(scaled, width=width, height=height)
    for light in (0.8, 1.1, 1.25):
        yield f"light times {light:g}", partial(lit, light=light)
    for contrast in (0.8, 1.2):
        yield f"contrast times {contrast:g}", partial(contrasted, contrast=contrast)
    for share in (0.01, 0.02, 0.05):
        yield f"{share:.0%} less at each edge", partial(cropped, share=share)
    yield "1 % less, brighter, 0.8 of the size and JPEG at 60", several


@dataclass(frozen=True)
class Cut:
    """A square out of a photograph."""

    name: str
    left: int
    top: int
    side: int

    def of(self, photograph: Image.Image) -> Image.Image:
        box = (self.left, self.top, self.left + self.side, self.top + self.side)
        return photograph.crop(box)

    def shared(self, other: Cut) -> float:
        """Pixels in both over pixels in either."""
        if self.name != other.name:
            return 0.0
        across = _overlap(self.left, self.side, other.left, other.side)
        both = across * _overlap(self.top, self.side, other.top, other.side)
        return both / (self.side**2 + other.side**2 - both)


def _overlap(one: int, length: int, other: int, other_length: int) -> int:
    return max(0, min(one + length, other + other_length) - max(one, other))


def random_cuts(count: int) -> Iterator[Cut]:
    """Squares at random places."""
    draw, found = np.random.RandomState(7), photographs()
    for _ in range(count):
        name = sorted(found)[draw.randint(len(found))]
        side = int(draw.randint(_SMALLEST_CUT, _LARGEST_CUT))
        left, top = (draw.randint(edge - side) for edge in found[name].size)
        yield Cut(name, int(left), int(top), side)


def main() -> None:
    """Print what is found, what is called a copy, and how long it takes."""
    whole = photographs()
    every = [one for photograph in whole.values() for one in tiles(photograph, TILE)]
    untold = set(find_copies(ImageLikeness([Picture(one) for one in every])).untold)
    originals = [one for place, one in enumerate(every) if place not in untold]
    count = len(originals)
    say(f"{count} tiles of {TILE} pixels; {len(untold)} more are too plain")
    for name, change in changes():
        pictures = [*map(Picture, originals), *(Picture(change(one)) for one in originals)]
        found = find_copies(ImageLikeness(pictures)).earlier
        right = sum(place in found.get(count + place, ()) for place in range(count))
        named = sum(len(earlier) for earlier in found.values())
        say(f"| {name} | {right} of {count} | {named - right} others |")
    images = [image.resize((64, 64), Image.Resampling.NEAREST) for image, _ in digits()]
    found = find_copies(ImageLikeness([Picture(one) for one in images])).earlier
    say(f"{len(images)} digits of 64 pixels: {len(found)} are called copies")
    for number in CUTS:
        cuts = list(random_cuts(number))
        likeness = ImageLikeness([Picture(one.of(whole[one.name])) for one in cuts])
        began = time.perf_counter()
        found = find_copies(likeness).earlier
        seconds = time.perf_counter() - began
        overlaps = [
            cuts[later].shared(cuts[one]) for later, earlier in found.items() for one in earlier
        ]
        say(
            f"{number} random cuts: {number / seconds:,.0f} rows/s; {len(overlaps)} pairs are "
            f"called copies, and share at least {min(overlaps, default=1):.2f} of their pixels"
        )


if __name__ == "__main__":
    main()
