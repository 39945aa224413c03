"""Image files: what is wrong with one is found out and named, whatever it holds."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finetune_trainer.data.cleaning import (
    ANIMATED,
    IMAGE_FAULTS,
    NO_COLOR,
    NO_IMAGE,
    TOO_LARGE,
    TOO_SMALL,
    TRUNCATED,
    UNREADABLE,
)
from finetune_trainer.data.image_files import ImageFiles, class_files
from finetune_trainer.data.images import Decoded, decode
from finetune_trainer.errors import DataError

NOISE = np.random.RandomState(3).randint(0, 256, (24, 20, 3)).astype(np.uint8)
PHOTO = Image.fromarray(NOISE)


def encoded(image: Image.Image = PHOTO, kind: str = "PNG", **how: object) -> bytes:
    """The image as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def a_bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header speaks of so many pixels on each side."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no bytes": (lambda: b"", UNREADABLE),
    "a text": (lambda: b"not an image at all", UNREADABLE),
    "a JPEG cut off": (lambda: encoded(kind="JPEG")[:-300], TRUNCATED),
    "a PNG cut off": (lambda: encoded()[:-400], TRUNCATED),
    "a PNG with a broken checksum": (
        lambda: encoded().replace(b"IHDR", b"IHDR", 1)[:29] + b"\0\0\0\0" + encoded()[33:],
        UNREADABLE,
    ),
    "a bomb": (lambda: a_bomb(40_000), TOO_LARGE),
    "more than a photograph has": (lambda: a_bomb(11_000), TOO_LARGE),
    "a spacer": (lambda: encoded(Image.new("RGB", (1, 1))), TOO_SMALL),
    "a thin line": (lambda: encoded(Image.new("RGB", (900, 7))), TOO_SMALL),
    "an animation": (
        lambda: encoded(PHOTO.convert("P"), "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
        ANIMATED,
    ),
    "a scan of several pages": (
        lambda: encoded(kind="TIFF", save_all=True, append_images=[PHOTO.rotate(90)]),
        ANIMATED,
    ),
    "16 bits": (lambda: encoded(Image.fromarray(np.full((9, 9), 700, np.uint16))), NO_COLOR),
    "floating point": (lambda: encoded(Image.new("F", (9, 9)), "TIFF"), NO_COLOR),
    "PostScript": (lambda: encoded(kind="EPS"), UNREADABLE),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_with_a_file_is_named(name: str) -> None:
    make, fault = FAULTS[name]
    assert decode(make()) == fault


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]),
    st.integers(0, 2000),
    st.binary(min_size=1, max_size=6),
)
def test_a_damaged_file_is_an_image_or_has_a_fault(kind: str, at: int, damage: bytes) -> None:
    whole = encoded(kind=kind)
    place = at % len(whole)
    found = decode(whole[:place] + damage + whole[place + len(damage) :])
    assert isinstance(found, Decoded) or found in IMAGE_FAULTS


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_an_image_of_any_common_mode_is_read_in_color(mode: str) -> None:
    found = decode(encoded(PHOTO.convert(mode), "TIFF"))
    assert isinstance(found, Decoded)
    assert (found.image.mode, found.mode) == ("RGB", mode)


def test_a_photograph_is_turned_upright() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera lay on its side
    found = decode(encoded(kind="PNG", exif=turned))
    assert isinstance(found, Decoded)
    assert np.array_equal(np.asarray(found.image), np.rot90(NOISE, -1))


def test_equal_pixels_have_one_key_however_they_are_encoded() -> None:
    keys = {
        found.key
        for kind in ("PNG", "BMP", "TIFF")
        if isinstance(found := decode(encoded(kind=kind)), Decoded)
    }
    assert len(keys) == 1
    other = NOISE.copy()
    other[0, 0, 0] ^= 1
    found = decode(encoded(Image.fromarray(other)))
    assert isinstance(found, Decoded)
    assert found.key not in keys
    tall, wide = (
        decode(encoded(Image.fromarray(NOISE.reshape(shape))))
        for shape in ((24, 20, 3), (20, 24, 3))
    )
    assert isinstance(tall, Decoded)
    assert isinstance(wide, Decoded)
    assert tall.key != wide.key, "the same bytes in another shape are another image"


def write(path: Path, content: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_a_folder_of_classes_is_read_in_order_with_what_lies_deeper(tmp_path: Path) -> None:
    for name in (
        "dog/b.png",
        "cat/a.png",
        "cat/old/z.png",
        ".git/x.png",
        "cat/.DS_Store",
        "README",
    ):
        write(tmp_path / name)
    assert list(class_files(tmp_path, "images")) == [
        ("cat/a.png", "cat"),
        ("cat/old/z.png", "cat"),
        ("dog/b.png", "dog"),
    ]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["a.png"], "images: neither rows nor a folder for each class"),
        (["cat/a.png", "dog/.keep"], "images: class 'dog' has no file"),
        (["cat/a\udcff.png"], r"images: a name is not UTF-8 ('cat/a\udcff.png'); rename it"),
        (["a\udcff/a.png"], r"images: a name is not UTF-8 ('a\udcff/a.png'); rename it"),
    ],
)
def test_a_folder_without_classes_or_images_is_refused(
    tmp_path: Path, files: list[str], told: str
) -> None:
    for name in files:
        write(tmp_path / name)
    with pytest.raises(DataError, match=re.escape(told)):
        list(class_files(tmp_path, "images"))


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "link/secret", "a\0b"])
def test_no_path_leads_out_of_the_data(tmp_path: Path, path: str) -> None:
    write(tmp_path / "secret")
    write(tmp_path / "data/inside.png")
    (tmp_path / "data/link").symlink_to(tmp_path)
    files = ImageFiles(tmp_path / "data", tmp_path / "data")
    assert files.open("inside.png", "row 1") == b"x"
    with pytest.raises(DataError, match="row 2: the image's path leads out of the data's folder"):
        files.open(path, "row 2")


def test_a_file_that_is_not_there_is_no_image_and_a_huge_one_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.data.image_files.MOST_BYTES", 3)
    write(tmp_path / "huge.png", b"1234")
    (tmp_path / "folder").mkdir()
    files = ImageFiles(tmp_path, tmp_path)
    assert files.open("absent.png", "row 1") == NO_IMAGE
    assert files.open("folder", "row 2") == NO_IMAGE
    assert files.open("huge.png", "row 3") == TOO_LARGE


def test_the_digest_is_of_names_and_bytes_in_the_order_of_the_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.png", b"1")
    write(tmp_path / "b.png", b"2")

    def digest(*names: str) -> str:
        files = ImageFiles(tmp_path, tmp_path)
        for name in names:
            files.open(name, "row")
        return files.digest()

    before = digest("a.png", "b.png")
    assert before == digest("a.png", "b.png") != digest("b.png", "a.png")
    write(tmp_path / "b.png", b"3")
    assert before != digest("a.png", "b.png")
