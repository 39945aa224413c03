"""Image classification from files to a model in a plain pipeline, on scikit-learn's digits."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from examples.images import prepare
from finetune_api.run import LAYOUT
from finetune_api.tasks import Metric, Task
from finetune_operator.cli.main import main
from finetune_trainer.models.check import check_config
from finetune_trainer.models.heads import IMAGES
from finetune_trainer.models.processors import load_image_processor
from harness.digits import SIDE, write_digits, write_tiny_resnet, write_tiny_vit
from harness.evaluation import recompute
from harness.tasks import Done, through_all_steps

TRAINING = {
    "epochs": None,
    "max_steps": 120,
    "learning_rate": 3e-3,
    "global_batch_size": 64,
    "micro_batch_size": 64,
    "accumulation_steps": 1,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 1000,
    "max_length": None,
}
GATE = [{"name": "accurate", "metric": "accuracy", "min": 0.95}]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the digits as folders of classes, and named in rows that say who wrote them."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "classes")
    chance = random.Random(4)
    lines = ["file_name,label,hand"]
    for path in sorted((folder / "classes").rglob("*.png")):
        relative = path.relative_to(folder).as_posix()
        lines.append(f"{relative},{path.parent.name},{chance.choice(('left', 'right'))}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def classified(folder: Path, images: Path, model: Path, **changes: Any) -> Done:
    """Take the digits through all three steps."""
    lora, gate = changes.pop("lora", None), changes.pop("gate", GATE)
    evaluation = {"gate": gate, "groups": changes.pop("groups", ())}
    dataset = {"train": "images/classes"} | changes.pop("dataset", {})
    (folder / "images").symlink_to(images)
    return through_all_steps(
        folder,
        model,
        Task.IMAGE_CLASSIFICATION,
        training=TRAINING | changes,
        evaluation=evaluation,
        lora=lora,
        **dataset,
    )


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Done:
    """Give a ResNet that began with random weights, and so trains its statistics as well."""
    folder = tmp_path_factory.mktemp("resnet")
    write_tiny_resnet(folder / "model")
    augmentation = {"shift_percent": 6, "rotation_degrees": 8}
    return classified(
        folder,
        images,
        folder / "model",
        batch_norm="train",
        augmentation=augmentation,
        groups=("hand",),
        dataset={
            "train": "images/metadata.csv",
            "columns": {"id": "file_name"},
            "split": {"select": 15},
        },
    )


def test_a_small_resnet_learns_the_digits_and_passes_its_gate(resnet: Done) -> None:
    report = resnet.report
    assert report.passed, report.metrics
    assert report.metrics[Metric.ACCURACY].value >= 0.95
    assert [one.name for one in report.baselines] == ["majority", "pixels", "probe"]
    assert report.baselines[1].metrics[Metric.ACCURACY].value > 0.9
    assert report.baselines[2].metrics[Metric.ACCURACY].value > 0.5, "even of random filters"
    assert report.labels == tuple("0123456789")


def test_the_data_report_tells_sizes_colors_and_what_the_model_reads(resnet: Done) -> None:
    data = resnet.prepared.data
    assert (data.read_rows, data.kept_rows) == (1797, 1797)
    assert data.tokens is None
    assert data.images is not None
    assert (data.images.width.min, data.images.height.max) == (8, 8)
    assert data.images.modes == {"L": data.train_rows}
    assert (data.images.read_width, data.images.read_height) == (SIDE, SIDE)


def test_every_figure_follows_from_the_kept_predictions(resnet: Done) -> None:
    rows = resnet.predictions
    assert set(rows[0]) >= {"row_id", "label", "predicted", "probabilities", "pixels_predicted"}
    compared = recompute(resnet.workspace.path(LAYOUT.output))
    assert {metric.value for metric in resnet.report.metrics} <= compared
    assert {"majority_errorReduction", "pixels_accuracy", "probe_accuracy"} <= compared
    assert {"hand left None", "hand right ('accuracy', None)"} <= compared
    assert "calibrated loss" in compared


def test_columns_beside_the_files_make_groups_and_chance_finds_none_worse(resnet: Done) -> None:
    (column,) = resnet.report.groups
    hands = [row["groups.hand"] for row in resnet.predictions]
    assert {one.group: one.rows for one in column.groups} == {
        hand: hands.count(hand) for hand in ("left", "right")
    }
    assert not any(one.found for group in column.groups for one in group.contrasts)


def test_probabilities_of_images_are_measured_and_tempered(resnet: Done) -> None:
    found = resnet.report.calibration
    assert found is not None
    assert found.select_rows == resnet.prepared.data.select_rows
    assert sum(one.rows for one in found.before.bins) == resnet.report.test_rows
    assert found.temperature is not None
    assert found.after is not None


def test_mistakes_are_named_by_file_the_surest_first(resnet: Done) -> None:
    mistakes = resnet.report.mistakes
    wrong = {row["row_id"]: row for row in resnet.predictions if row["label"] != row["predicted"]}
    assert len(mistakes) == min(10, len(wrong))
    assert mistakes, "a model without a mistake shows nothing here: train it less"
    assert [one.probability for one in mistakes] == sorted(
        (one.probability for one in mistakes), reverse=True
    )
    for one in mistakes:
        assert one.row_id.startswith(f"classes/{one.truth}/"), "the folder is the class"
        assert wrong[one.row_id]["predicted"] == one.predicted


def asked(model: Path, files: list[str]) -> list[dict[str, float]]:
    """What a plain pipeline says of image files."""
    answers = pipeline("image-classification", model=str(model))(files, top_k=10)
    return [{one["label"]: one["score"] for one in answer} for answer in answers]


def test_the_export_says_the_same_of_the_files_in_a_plain_pipeline(
    resnet: Done, images: Path
) -> None:
    rows = resnet.predictions[:24]
    found = asked(resnet.model, [str(images / row["row_id"]) for row in rows])
    for row, answer in zip(rows, found, strict=True):
        expected = dict(zip(resnet.report.labels, row["probabilities"], strict=True))
        assert answer == pytest.approx(expected, abs=1e-5)
    card = (resnet.model / "README.md").read_text()
    assert 'pipeline("image-classification"' in card
    assert "tokens" not in card
    processor = json.loads((resnet.model / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": SIDE, "width": SIDE}


@pytest.mark.parametrize("lora", [None, {"rank": 8, "output": "adapter"}], ids=["full", "lora"])
def test_a_small_vit_learns_the_digits(
    tmp_path: Path, images: Path, lora: dict[str, Any] | None
) -> None:
    write_tiny_vit(tmp_path / "model")
    accurate = [{"name": "accurate", "metric": "accuracy", "min": 0.85 if lora is None else 0.5}]
    done = classified(tmp_path, images, tmp_path / "model", lora=lora, gate=accurate)
    assert done.report.passed, done.report.metrics
    assert done.prepared.model.image is not None
    adapted = done.prepared.model.trainable_parameters < done.prepared.model.parameters
    assert adapted == (lora is not None)
    if lora is None:
        [row] = done.predictions[:1]
        [answer] = asked(done.model, [str(images / "classes" / row["row_id"])])
        expected = dict(zip(done.report.labels, row["probabilities"], strict=True))
        assert answer == pytest.approx(expected, abs=1e-5)


def test_the_example_is_valid_and_writes_what_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare", "--workspace", str(tmp_path)])
    prepare.main()
    assert "1797 digits" in capsys.readouterr().out
    claim = tmp_path / "claims" / "images"
    assert len(list(claim.glob("digits/*/*.png"))) == 1797
    load_image_processor(claim / "resnet", "pvc://images/resnet")
    check_config(claim / "resnet", "pvc://images/resnet", IMAGES)
    example = Path(prepare.__file__).with_name("job.yaml")
    monkeypatch.setattr(sys, "argv", ["finetune", "validate", "-f", str(example)])
    with contextlib.suppress(SystemExit):
        main()
    said = capsys.readouterr()
    assert (said.err, bool(said.out)) == ("", True)
