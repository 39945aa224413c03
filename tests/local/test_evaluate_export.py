"""The exported model: proved before it is there, whole when it is, gone when it must be."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from finetune_trainer.errors import StorageError
from finetune_trainer.evaluation.class_evidence import TEXT_PIPELINE
from finetune_trainer.evaluation.metrics import Floats
from finetune_trainer.models.export import (
    export_is_whole,
    export_model,
    prepare_for_export,
    prove,
    remove_export,
)
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.models.proof import ExportError, Proof, compare_classes

LABELS = ("bad", "good", "so-so")
TEXTS = (
    "the film",
    "brilliant actor with a very old story",
    "boring, dull, awful and " + "very " * 80 + "long",
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    return loaded


@pytest.fixture(scope="module")
def model(tiny_model: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    torch.manual_seed(4)
    loaded: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=3, dtype=torch.float32
    )
    torch.nn.init.normal_(loaded.get_parameter("classifier.weight"), std=2.0)
    prepare_for_export(loaded, tokenizer, SINGLE_LABEL, LABELS, max_length=24)
    loaded.train(mode=False)
    return loaded


@pytest.fixture(scope="module")
def proof(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Proof:
    """What this process finds for the texts, one by one, cut to 24 tokens."""
    with torch.inference_mode():
        scores = [
            model(**tokenizer(text, truncation=True, max_length=24, return_tensors="pt")).logits
            for text in TEXTS
        ]
    return a_proof(torch.cat(scores).double().softmax(dim=1).numpy())


def a_proof(probabilities: Floats) -> Proof:
    """Asks for these probabilities of the texts."""
    return Proof(
        pipeline=TEXT_PIPELINE,
        inputs=TEXTS,
        compare=partial(compare_classes, LABELS, probabilities),
        device="cpu",
    )


@dataclass(frozen=True)
class Export:
    folder: Path
    digest: str


@pytest.fixture(scope="module")
def made_once(
    tmp_path_factory: pytest.TempPathFactory,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    proof: Proof,
) -> Export:
    folder = tmp_path_factory.mktemp("export") / "output" / "model"
    return Export(folder, export_model(model, tokenizer, "# a card\n", proof, folder))


@pytest.fixture
def export(made_once: Export, tmp_path: Path) -> Export:
    """A copy that a test may spoil."""
    folder = tmp_path / "model"
    shutil.copytree(made_once.folder, folder)
    return Export(folder, made_once.digest)


def test_an_export_says_itself_what_a_reader_would_otherwise_guess(
    made_once: Export, tokenizer: PreTrainedTokenizerBase
) -> None:
    folder = made_once.folder
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "so-so"}
    assert config["label2id"] == {"bad": 0, "good": 1, "so-so": 2}
    assert config["problem_type"] == "single_label_classification"
    assert config["pad_token_id"] == tokenizer.pad_token_id
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 24
    assert (folder / "README.md").read_text() == "# a card\n"


def test_an_export_lists_all_its_files_and_none_can_run_code_or_names_this_machine(
    made_once: Export, tiny_model: Path
) -> None:
    folder = made_once.folder
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "manifest.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".py"))]
    listed = {file["path"] for file in json.loads((folder / "manifest.json").read_text())["files"]}
    assert listed == names - {"manifest.json"}
    written = "".join(path.read_text() for path in folder.glob("*.json"))
    assert str(folder.parent) not in written
    assert str(tiny_model) not in written
    assert export_is_whole(folder, made_once.digest)
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "nothing else is left"
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())


def answers(probabilities: list[list[float]]) -> list[list[dict[str, object]]]:
    """What a pipeline says: classes with their scores, the likeliest first."""
    return [
        sorted(
            ({"label": label, "score": score} for label, score in zip(LABELS, row, strict=True)),
            key=lambda one: -float(str(one["score"])),
        )
        for row in probabilities
    ]


SCORED = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])


@pytest.mark.parametrize(
    ("found", "figures"),
    [
        ([[0.70003, 0.19997, 0.1], [0.3, 0.3, 0.4]], r"0 of 2 labels differ.*by up to 3\.00e-05"),
        ([[0.2, 0.7, 0.1], [0.3, 0.3, 0.4]], r"1 of 2 labels differ.*by up to 5\.00e-01"),
    ],
)
def test_other_labels_or_probabilities_are_refused_with_the_figures(
    found: list[list[float]], figures: str
) -> None:
    with pytest.raises(ExportError, match=figures):
        compare_classes(LABELS, SCORED, answers(found))


def test_what_rounding_does_is_accepted() -> None:
    near = [[0.700004, 0.199996, 0.1], [0.299995, 0.300001, 0.400004]]
    compare_classes(LABELS, SCORED, answers(near))


def test_other_class_names_are_refused() -> None:
    with pytest.raises(ExportError, match="LABEL_0"):
        compare_classes(["LABEL_0", "LABEL_1", "LABEL_2"], SCORED, answers(SCORED.tolist()))


def test_a_failed_proof_leaves_the_earlier_export_as_it_was(
    export: Export, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, proof: Proof
) -> None:
    tokenizer.model_max_length = 20
    try:
        with pytest.raises(ExportError, match="probabilities by up to"):
            export_model(model, tokenizer, "cuts texts elsewhere", proof, export.folder)
    finally:
        tokenizer.model_max_length = 24
    assert export_is_whole(export.folder, export.digest)
    assert [path.name for path in export.folder.parent.iterdir()] == ["model"]


def test_a_new_export_takes_the_earlier_ones_place(
    export: Export, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, proof: Proof
) -> None:
    (export.folder / "left-over.bin").write_bytes(b"of an earlier export")
    digest = export_model(model, tokenizer, "another card", proof, export.folder)
    assert export_is_whole(export.folder, digest)
    assert not export_is_whole(export.folder, export.digest)
    assert not (export.folder / "left-over.bin").exists()
    assert [path.name for path in export.folder.parent.iterdir()] == ["model"]


def test_a_model_that_a_plain_pipeline_can_not_load_is_refused(
    export: Export, proof: Proof
) -> None:
    (export.folder / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(ExportError, match="does not load in a plain transformers pipeline"):
        prove(export.folder, proof)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest"])
def test_a_damaged_export_is_not_whole(export: Export, damage: str) -> None:
    weights = export.folder / "model.safetensors"
    content = weights.read_bytes()
    assert export_is_whole(export.folder, export.digest)
    match damage:
        case "cut":
            weights.write_bytes(content[:-1])
        case "changed":
            weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "gone":
            weights.unlink()
        case "manifest":
            (export.folder / "manifest.json").unlink()
    assert not export_is_whole(export.folder, export.digest)


def test_removing_an_export_takes_all_of_it_and_is_content_with_none(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    remove_export(folder)
    for name in ("model", "model.earlier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    remove_export(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_workspace_that_can_not_be_written_is_a_storage_error(
    tmp_path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, proof: Proof
) -> None:
    (tmp_path / "output").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="can't write the exported model"):
        export_model(model, tokenizer, "", proof, tmp_path / "output" / "model")
