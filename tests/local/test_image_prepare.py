"""Images as rows: the forms they come in, what is dropped and why, and what of them is stored."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, load_from_disk
from datasets import Image as Feature
from PIL import Image, ImageEnhance
from transformers import ResNetConfig, ResNetForImageClassification

from finetune_api.datareport import CountedReason, PrepareReport
from finetune_api.run import LAYOUT
from finetune_api.tasks import Task
from finetune_trainer.data.pixels import PixelForm
from finetune_trainer.errors import DataError, UsageError
from finetune_trainer.models.heads import IMAGES
from finetune_trainer.models.load import load_model
from finetune_trainer.models.processors import load_image_processor
from harness.digits import digits, write_digits, write_processor, write_tiny_resnet, write_tiny_vit
from harness.photographs import jpeg, photographs, tiles
from harness.tasks import MODEL, prepared

ROWS = 300
TRAINING = {"max_length": None}
SMALL_SPLIT = {"strategy": "stratified"}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, ROWS)
    return folder


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "resnet"
    write_tiny_resnet(folder)
    return folder


def prepare_images(
    folder: Path, model: Path, training: dict[str, Any] | None = None, **dataset: Any
) -> PrepareReport:
    return prepared(
        folder,
        model,
        Task.IMAGE_CLASSIFICATION,
        TRAINING | (training or {}),
        **({"train": "images", "split": SMALL_SPLIT} | dataset),
    )


def counted(report: PrepareReport, step: str) -> CountedReason:
    return next(one for one in report.data.cleaning if one.step == step)


def as_classes(folder: Path) -> dict[str, Any]:
    write_digits(folder / "images", ROWS)
    return {}


def as_metadata(folder: Path) -> dict[str, Any]:
    """Hugging Face's imagefolder: metadata.csv beside the files."""
    (folder / "images").mkdir(parents=True)
    with (folder / "images/metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file_name", "label"))
        for number, (image, label) in enumerate(digits()[:ROWS]):
            image.save(folder / f"images/{number}.png")
            rows.writerow((f"{number}.png", label))
    return {}


def as_paths(folder: Path) -> dict[str, Any]:
    """A file of rows with a column of paths, which start from its own folder."""
    write_digits(folder / "images", ROWS)
    with (folder / "rows.jsonl").open("w") as file:
        for number, (_, label) in enumerate(digits()[:ROWS]):
            row = {"photo": f"images/{label}/{number:04d}.png", "label": label}
            file.write(f"{json.dumps(row)}\n")
    return {"train": "rows.jsonl", "columns": {"image": "photo"}}


def as_structs(folder: Path) -> dict[str, Any]:
    """Parquet as `datasets` writes images."""
    rows = [
        {"image": {"bytes": png(image), "path": f"{number}.png"}, "label": int(label)}
        for number, (image, label) in enumerate(digits()[:ROWS])
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return {"train": "rows.parquet"}


def as_base64(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("w") as file:
        for image, label in digits()[:ROWS]:
            held = {"bytes": base64.b64encode(png(image)).decode(), "path": None}
            file.write(f"{json.dumps({'image': held, 'label': label})}\n")
    return {"train": "rows.jsonl"}


FORMS: list[Callable[[Path], dict[str, Any]]] = [
    as_classes,
    as_metadata,
    as_paths,
    as_structs,
    as_base64,
]


def roles_of(folder: Path) -> dict[str, list[tuple[bytes, int]]]:
    """Pixels and labels of each role."""
    parts = {role: LAYOUT.prepared / role for role in ("train", "select")} | {"test": LAYOUT.test}
    found = {}
    for role, part in parts.items():
        rows = load_from_disk(str(folder / "workspace" / part))
        found[role] = sorted(zip(rows["pixels"], rows["label"], strict=True))
    return found


def test_images_get_the_same_roles_in_whatever_form_they_come(tmp_path: Path, resnet: Path) -> None:
    roles = []
    for form in FORMS:
        folder = tmp_path / form.__name__
        report = prepare_images(folder, resnet, **form(folder))
        assert (report.data.read_rows, report.data.kept_rows) == (ROWS, ROWS)
        roles.append(roles_of(folder))
    assert roles[1:] == roles[:1] * (len(FORMS) - 1)


def test_numbered_labels_get_the_names_that_come_with_the_file(
    tmp_path: Path, resnet: Path
) -> None:
    rows = {
        "image": [{"bytes": png(image), "path": None} for image, _ in digits()[:ROWS]],
        "label": [
            int(label) if number else -1 for number, (_, label) in enumerate(digits()[:ROWS])
        ],
    }
    names = [f"digit {number}" for number in range(10)]
    features = Features({"image": Feature(), "label": ClassLabel(names=names)})
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    report = prepare_images(tmp_path, resnet, train="rows.parquet")
    assert report.labels == tuple(names)
    assert counted(report, "no label").examples == ("1",)


def test_stored_pixels_are_what_the_models_own_processor_makes(
    tmp_path: Path, images: Path, resnet: Path
) -> None:
    shutil.copytree(resnet, tmp_path / "model")
    write_processor(
        tmp_path / "model", image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=3
    )
    shutil.copytree(images, tmp_path / "images")
    prepare_images(tmp_path, tmp_path / "model")
    processor = load_image_processor(tmp_path / "model", "a model")
    rows = load_from_disk(str(tmp_path / "workspace" / LAYOUT.test))
    form = PixelForm.of(processor, "a model")
    for row in list(rows)[:10]:
        image = Image.open(tmp_path / "images" / row["row_id"]).convert("RGB")
        expected = processor(images=image, return_tensors="np")["pixel_values"][0]
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(3, form.height, form.width)
        assert np.abs(form.scaled(pixels) - expected).max() < 2e-6


def break_some(folder: Path) -> dict[str, list[str]]:
    """Put faulty files into a folder of classes; their names by what is wrong with them."""
    whole = (folder / "1/0001.png").read_bytes()
    photo = Image.fromarray(np.random.RandomState(1).randint(0, 256, (9, 9, 3)).astype(np.uint8))
    (folder / "1/cut.png").write_bytes(whole[:60])
    (folder / "2/notes.txt").write_text("not an image")
    (folder / "3/empty.png").write_bytes(b"")
    Image.new("L", (4, 4)).save(folder / "4/dot.png")
    photo.save(folder / "5/moving.gif", save_all=True, append_images=[photo.rotate(90)])
    Image.fromarray(np.full((9, 9), 700, np.uint16)).save(folder / "6/deep.png")
    return {
        "truncated images": ["1/cut.png"],
        "unreadable images": ["2/notes.txt", "3/empty.png"],
        "images too small": ["4/dot.png"],
        "images of several frames": ["5/moving.gif"],
        "images of more than 8 bits": ["6/deep.png"],
    }


def test_images_that_cannot_be_used_are_dropped_counted_and_named(
    tmp_path: Path, images: Path, resnet: Path
) -> None:
    shutil.copytree(images, tmp_path / "images")
    faults = break_some(tmp_path / "images")
    report = prepare_images(tmp_path, resnet)
    assert (report.data.read_rows, report.data.kept_rows) == (ROWS + 6, ROWS)
    for step, files in faults.items():
        reason = counted(report, step)
        assert (reason.rows, reason.dropped) == (len(files), True)
        assert list(reason.examples) == files


def test_too_many_of_them_are_an_error_that_names_them(
    tmp_path: Path, images: Path, resnet: Path
) -> None:
    shutil.copytree(images, tmp_path / "images")
    break_some(tmp_path / "images")
    told = re.escape(
        f"6 of {ROWS + 6} rows would be left out, more than 1 %: 2 unreadable images (rows "
        "2/notes.txt, 3/empty.png); 1 truncated images (rows 1/cut.png)"
    )
    with pytest.raises(DataError, match=told):
        prepare_images(tmp_path, resnet, max_dropped_percent=1)


def test_copies_conflicts_and_leaks_are_found_by_pixels(
    tmp_path: Path, images: Path, resnet: Path
) -> None:
    train, test = tmp_path / "images", tmp_path / "tests"
    shutil.copytree(images, train)
    test.mkdir()
    first, second = sorted((train / "7").iterdir())[:2]
    # Another encoding of the same pixels is the same image.
    Image.open(first).save(train / "7/copy.bmp")
    Image.open(second).save(train / "8/wrong.bmp")
    for label in "0123456789":
        leak = sorted((train / label).glob("*.png"))[5]
        (test / label).mkdir()
        Image.open(leak).save(test / label / "test.tif")
    report = prepare_images(tmp_path, resnet, test="tests")
    assert counted(report, "exact duplicates").examples == (f"7/{first.name}",) or counted(
        report, "exact duplicates"
    ).examples == ("7/copy.bmp",)
    assert set(counted(report, "conflicting labels").examples) == {
        f"7/{second.name}",
        "8/wrong.bmp",
    }
    assert counted(report, "leaks: input in another role").rows == 10
    assert report.data.test_rows == 10


def plant_copies(folder: Path) -> set[str]:
    """Write tiles of photographs to a test set and to images, there with changed copies of tests.

    Returns how the copies are called. Those that were resized have the wrong label.
    """
    changes: dict[str, Callable[[Image.Image], Image.Image]] = {
        "encoded": lambda image: jpeg(image, 60),
        "resized": lambda image: image.resize((image.width * 2 // 3, image.height * 2 // 3)),
        "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    }
    classes = photographs()
    other = dict(zip(classes, reversed(classes), strict=True))
    planted = set()
    for label in classes:
        for part in ("images", "tests"):
            (folder / part / label).mkdir(parents=True, exist_ok=True)
    for label, photograph in classes.items():
        # Around it is the sky, or what is out of focus: of that nothing can be told.
        middle = photograph.crop((160, 160, 480, 400))
        for number, tile in enumerate(tiles(middle, 80)):
            if number % 3:
                tile.save(folder / f"images/{label}/{number}.png")
                continue
            tile.save(folder / f"tests/{label}/{number}.png")
            for name, change in changes.items():
                said = other[label] if name == "resized" else label
                change(tile).save(folder / f"images/{said}/{label}-{number}-{name}.png")
                planted.add(f"{said}/{label}-{number}-{name}.png")
    return planted


@pytest.mark.parametrize("said", [None, "drop", "ignore"])
def test_changed_copies_of_test_images_leave_training_all_of_them_and_nothing_else(
    tmp_path: Path, resnet: Path, said: str | None
) -> None:
    planted = plant_copies(tmp_path)
    cleaning = {} if said is None else {"nearDuplicates": said}
    report = prepare_images(
        tmp_path, resnet, test="tests", cleaning=cleaning, split=SMALL_SPLIT | {"select": 20}
    )
    workspace = tmp_path / "workspace" / LAYOUT.prepared
    learned = {
        name for role in ("train", "select") for name in load_from_disk(workspace / role)["row_id"]
    }
    images = {
        path.relative_to(tmp_path / "images").as_posix()
        for path in (tmp_path / "images").rglob("*.png")
    }
    assert report.data.images is not None
    if said == "ignore":
        assert learned == images
        assert report.data.images.effective_rows is None
        return
    assert learned == images - planted
    leaks = counted(report, "leaks: near duplicate in another role")
    assert (leaks.rows, leaks.dropped) == (len(planted), True)
    assert set(leaks.examples) <= planted
    assert counted(report, "near duplicates" if said else "near duplicates, kept").rows == 0
    assert report.data.images.effective_rows == pytest.approx(report.data.train_rows)


def test_copies_that_train_count_as_one_kind_and_small_images_are_told_apart_from_none(
    tmp_path: Path, images: Path, resnet: Path
) -> None:
    plant_copies(tmp_path)
    shutil.rmtree(tmp_path / "tests")
    shutil.copytree(images / "0", tmp_path / "images/0")
    digits_of_0 = len(list((images / "0").iterdir()))
    report = prepare_images(tmp_path, resnet, cleaning={"nearDuplicates": "report"})
    untold = counted(report, "too small or plain for near duplicates")
    assert (untold.rows, untold.unchanged) == (digits_of_0, True)
    assert all(name.startswith("0/") for name in untold.examples)
    assert counted(report, "leaks: near duplicate in another role").rows > 0
    assert counted(report, "near duplicates, kept").rows > 0
    assert report.data.images is not None
    assert report.data.images.effective_rows is not None
    assert report.data.images.effective_rows < 0.9 * report.data.train_rows


def test_prepared_images_are_served_again_until_a_file_changes(
    tmp_path: Path, resnet: Path
) -> None:
    dataset = as_paths(tmp_path)
    first = prepare_images(tmp_path, resnet, **dataset)
    marker = tmp_path / "workspace/data/COMPLETE"
    made = marker.stat().st_mtime_ns
    assert prepare_images(tmp_path, resnet, **dataset) == first
    assert marker.stat().st_mtime_ns == made, "nothing was made anew"
    Image.new("RGB", (9, 9), "red").save(tmp_path / "images/0/0000.png")
    again = prepare_images(tmp_path, resnet, **dataset)
    assert again.data.data_digest != first.data.data_digest


def rows_beside_classes(folder: Path) -> dict[str, Any]:
    (folder / "images/rows.csv").write_text("image,label\n")
    return {}


REFUSED: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "rows and classes": (rows_beside_classes, "holds folders of classes and rows.csv"),
    "columns of a folder": (
        lambda _: {"columns": {"label": "digit"}},
        "a folder of classes has no columns and no format",
    ),
    "a format of a folder": (lambda _: {"format": "csv"}, "has no columns and no format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_clear_set_of_images_is_refused(
    tmp_path: Path, images: Path, resnet: Path, name: str
) -> None:
    shutil.copytree(images, tmp_path / "images")
    change, told = REFUSED[name]
    with pytest.raises(DataError, match=re.escape(told)):
        prepare_images(tmp_path, resnet, **change(tmp_path))


def without_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def gray(folder: Path) -> None:
    shutil.rmtree(folder)
    write_tiny_resnet(folder, num_channels=1)


def of_another_size(folder: Path) -> None:
    shutil.rmtree(folder)
    write_tiny_vit(folder)
    write_processor(folder, size={"height": 20, "width": 20})


def of_no_one_size(folder: Path) -> None:
    text = json.loads((folder / "preprocessor_config.json").read_text())
    text["size"] = {"shortest_edge": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(text))


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "no processor": (without_processor, "it has no image processor (preprocessor_config.json)"),
    "one channel": (gray, "it reads 1 channels"),
    "another size": (of_another_size, "it doesn't take the 20 × 20 pixels"),
    "no one size": (of_no_one_size, "set do_center_crop, or a size of height and width"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_model_that_does_not_fit_its_images_is_refused_before_training(
    tmp_path: Path, images: Path, resnet: Path, name: str
) -> None:
    spoil, told = UNFIT[name]
    shutil.copytree(resnet, tmp_path / "model")
    spoil(tmp_path / "model")
    shutil.copytree(images, tmp_path / "images")
    Image.new("RGB", (40, 12), "blue").save(tmp_path / "images/0/wide.png")
    with pytest.raises(UsageError, match=re.escape(told)):
        prepare_images(tmp_path, tmp_path / "model")


def kept_by_autograd(model: Any, images: torch.Tensor) -> int:
    """Numbers that a real call keeps for its backward pass, by the memory that holds them."""
    held: dict[int, tuple[torch.Tensor, int]] = {}
    weights = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in weights:
            held[memory.data_ptr()] = (tensor, memory.nbytes() // tensor.element_size())
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(pixel_values=images)
    return sum(numbers for _, numbers in held.values())


@pytest.mark.parametrize("write", [write_tiny_resnet, write_tiny_vit])
def test_memory_is_counted_on_the_models_shapes(
    tmp_path: Path, images: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "model")
    shutil.copytree(images, tmp_path / "images")
    report = prepare_images(tmp_path, tmp_path / "model")
    cost = report.model.image
    assert cost is not None
    loaded = load_model(tmp_path / "model", MODEL, IMAGES, report.labels, dropout=None, seed=1)
    rows = 16
    kept = kept_by_autograd(loaded.model, torch.zeros((rows, 3, 16, 16)))
    assert cost.activations == pytest.approx(kept / rows, rel=0.1)
    assert (cost.recomputed_activations is None) == (write is write_tiny_resnet)


def test_a_head_for_other_classes_is_replaced_and_one_for_the_same_stays(tmp_path: Path) -> None:
    """Models of images come with a head for ImageNet's classes."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.num_labels = 3
    config.id2label = dict(enumerate(("cat", "dog", "hen")))
    torch.manual_seed(3)
    trained = ResNetForImageClassification(config)
    trained.save_pretrained(tmp_path)
    write_processor(tmp_path)

    def head_of(*labels: str) -> torch.Tensor:
        loaded = load_model(tmp_path, MODEL, IMAGES, labels, dropout=None, seed=1)
        stem = loaded.model.get_parameter("resnet.embedder.embedder.convolution.weight")
        assert torch.equal(stem, trained.resnet.embedder.embedder.convolution.weight)
        return loaded.model.get_parameter("classifier.1.weight")

    before = trained.get_parameter("classifier.1.weight")
    assert torch.equal(head_of("cat", "dog", "hen"), before)
    assert not torch.equal(head_of("hen", "dog", "cat"), before), "another order is another head"
    assert head_of("ant", "bee").shape == (2, 16)
    assert torch.equal(head_of("ant", "bee"), head_of("ant", "bee")), "drawn from the seed"
