"""Which images are near copies of each other: real photographs, digits and pages."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from finetune_trainer.data.image_agreement import SIDE, Thumbnail, agree
from finetune_trainer.data.image_likeness import ImageLikeness, thumbnail
from finetune_trainer.data.likeness import Copies, find_copies
from harness.digits import digits
from harness.photographs import jpeg, photographs, tiles

Change = Callable[[Image.Image], Image.Image]
PHOTOGRAPHS = photographs()


@dataclass(frozen=True)
class Picture:
    image: Image.Image
    width: int = field(init=False)
    height: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", self.image.width)
        object.__setattr__(self, "height", self.image.height)

    def thumbnail(self) -> bytes:
        return thumbnail(self.image.convert("RGB"))


def copies(*images: Image.Image) -> Copies:
    return find_copies(ImageLikeness([Picture(image) for image in images]))


def pixels(image: Image.Image) -> Thumbnail:
    return np.frombuffer(thumbnail(image), np.uint8).reshape(SIDE, SIDE, 3)


def resized(image: Image.Image, width: float, height: float) -> Image.Image:
    return image.resize((round(image.width * width), round(image.height * height)))


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without that share at each edge."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def with_detail(side: int) -> list[Image.Image]:
    """The tiles of both photographs but for the sky and what is out of focus."""
    every = [tile for photograph in PHOTOGRAPHS.values() for tile in tiles(photograph, side)]
    untold = copies(*every).untold
    return [tile for place, tile in enumerate(every) if place not in untold]


CHANGES: dict[str, tuple[Change, float]] = {
    "JPEG, quality 90": (lambda image: jpeg(image, 90), 1.0),
    "JPEG, quality 50": (lambda image: jpeg(image, 50), 1.0),
    "JPEG, quality 20": (lambda image: jpeg(image, 20), 1.0),
    "half the size": (lambda image: resized(image, 0.5, 0.5), 1.0),
    "twice the size": (lambda image: resized(image, 2, 2), 1.0),
    "squeezed": (lambda image: resized(image, 1, 0.8), 1.0),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), 1.0),
    "darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.8), 1.0),
    "more contrast": (lambda image: ImageEnhance.Contrast(image).enhance(1.15), 1.0),
    "1 % less at each edge": (lambda image: cropped(image, 0.01), 0.95),
    "2 % less at each edge": (lambda image: cropped(image, 0.02), 0.9),
    "4 % less at each edge": (lambda image: cropped(image, 0.04), 0.9),
    "5 % less at each edge": (lambda image: cropped(image, 0.05), 0.8),
    "all at once": (
        lambda image: jpeg(
            ImageEnhance.Brightness(resized(cropped(image, 0.01), 0.8, 0.8)).enhance(1.08), 70
        ),
        0.9,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_of_photographs_are_found_and_nothing_else(name: str) -> None:
    change, least = CHANGES[name]
    originals = with_detail(106)
    assert len(originals) > 30
    found = copies(*originals, *map(change, originals)).earlier
    copied = [place for place in range(len(originals)) if len(originals) + place in found]
    assert all(list(found[len(originals) + place]) == [place] for place in copied)
    assert len(found) == len(copied), "no two originals are copies of each other"
    assert len(copied) >= least * len(originals)


@settings(max_examples=25, deadline=None)
@given(
    place=st.integers(0, 10**6),
    quality=st.integers(30, 95),
    size=st.floats(0.6, 2),
    light=st.floats(0.75, 1.1),
)
def test_whatever_quality_size_and_light_a_copy_has_it_is_found(
    place: int, quality: int, size: float, light: float
) -> None:
    originals = with_detail(142)
    original = originals[place % len(originals)]
    lit = ImageEnhance.Brightness(resized(original, size, size)).enhance(light)
    assert copies(original, jpeg(lit, quality)).earlier == {1: [0]}


def test_a_larger_crop_and_a_neighbor_are_other_images() -> None:
    photograph = PHOTOGRAPHS["china"]
    whole = photograph.crop((100, 150, 300, 350))
    neighbor = photograph.crop((120, 150, 320, 350))
    for other in (cropped(whole, 0.1), neighbor):
        assert copies(whole, other).earlier == {}
        # Nor if they happen to be looked at.
        assert not agree(pixels(whole), pixels(other))
    assert agree(pixels(whole), pixels(cropped(whole, 0.04)))


@pytest.mark.parametrize("side", [8, 28])
def test_of_small_images_nothing_is_told(side: int) -> None:
    small = [image.resize((side, side)) for image, _ in digits()[:40]]
    found = copies(*small, *small)
    assert len(found.untold) == 2 * len(small)
    assert not found.earlier


@pytest.mark.parametrize("resampling", [Image.Resampling.NEAREST, Image.Resampling.BICUBIC])
def test_handwritten_digits_are_hardly_ever_called_copies(resampling: Image.Resampling) -> None:
    # Every second one of the 1,797 has another that differs by a third of its contrast.
    enlarged = [image.resize((64, 64), resampling) for image, _ in digits()[:250]]
    found = copies(*enlarged)
    assert len(found.untold) < 100
    assert len(found.earlier) <= 1


def test_blank_and_plain_images_do_not_match_each_other() -> None:
    noise = np.random.RandomState(3).normal(250, 3, (20, 64, 64, 3)).clip(0, 255).astype(np.uint8)
    scans = [Image.fromarray(one) for one in noise]
    blanks = [Image.new("RGB", (64, 64), (level,) * 3) for level in (0, 128, 255)]
    gradients = [Image.linear_gradient("L"), Image.radial_gradient("L")]
    found = copies(*scans, *blanks, *gradients)
    assert not found.earlier
    assert len(found.untold) == len(scans) + len(blanks) + len(gradients)


def a_form(seed: int) -> Image.Image:
    """A page of a form, filled in at random."""
    draw, page = random.Random(seed), Image.new("RGB", (620, 877), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    pen.text((40, 30), "Claim, form 27 B", font=ImageFont.load_default(28), fill=0)
    for line in range(60, 800, 60):
        pen.rectangle((40, line + 40, 580, line + 80), outline=0, width=2)
        pen.text((45, line + 22), f"Field {line}", font=font, fill=0)
        said = "".join(draw.choices("abcdefgh ijklmnop", k=draw.randint(10, 50)))
        pen.text((60, line + 52), said, font=font, fill=(0, 0, 90))
    return page


def test_pages_of_one_form_are_copies_only_if_they_are_filled_in_alike() -> None:
    pages = [a_form(seed) for seed in range(30)]
    found = copies(*pages, *(jpeg(page, 50) for page in pages)).earlier
    assert found == {30 + place: [place] for place in range(30)}


def test_a_page_that_is_written_on_is_no_copy_of_the_one_that_is_not() -> None:
    page = Image.new("RGB", (320, 480), "white")
    page.paste(PHOTOGRAPHS["china"].crop((100, 190, 420, 380)))
    written = page.copy()
    ImageDraw.Draw(written).ellipse((120, 360, 200, 430), outline=0, width=4)
    assert copies(page, written).earlier == {}
    assert copies(page, jpeg(page, 50)).earlier == {1: [0]}


def test_what_differs_by_color_alone_is_another_image() -> None:
    red = with_detail(142)[-1]
    channels = red.split()
    assert copies(red, Image.merge("RGB", channels[::-1])).earlier == {}
    paler = ImageEnhance.Color(red).enhance(0.9)
    assert copies(red, paler).earlier == {1: [0]}


def test_one_part_that_differs_makes_another_image() -> None:
    original = PHOTOGRAPHS["flower"].crop((200, 80, 440, 320))
    other = original.copy()
    other.paste(PHOTOGRAPHS["china"].crop((300, 200, 360, 260)), (90, 90))
    assert copies(original, other).earlier == {}


def test_of_hundreds_of_copies_of_one_image_each_is_found() -> None:
    original = PHOTOGRAPHS["china"].crop((250, 150, 400, 300))
    draw = random.Random(1)
    family = [
        ImageEnhance.Brightness(original).enhance(draw.uniform(0.85, 1.05)) for _ in range(300)
    ]
    found = copies(original, *with_detail(142), *family)
    first = 1 + len(with_detail(142))
    assert all(0 in found.earlier[first + number] for number in range(len(family)))


def test_keys_are_the_same_on_every_machine() -> None:
    # Pinned: a new release must not take out rows of data that it let through before.
    picture = Picture(
        Image.fromarray(np.add.outer(np.arange(96) ** 2, np.arange(96) * 7 % 64).astype(np.uint8))
    )
    assert ImageLikeness([picture]).keys().bands[0, :, 0].tolist() == [520, 20802]
