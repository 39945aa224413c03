"""The model that leaves the job: written, proved in a plain pipeline, then put in its place.

The evaluate step calls it once the gate has passed, and takes an earlier export away when it has
not. Nothing half-written and nothing unproved ever stands under the final name.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.markers import Contract
from finetune_trainer.errors import StorageError, TrainerError
from finetune_trainer.evaluation.metrics import Floats
from finetune_trainer.training.manifest import FileDigest, digest_files, sync

MANIFEST = "manifest.json"
CARD = "README.md"
TOLERANCE = 1e-5
_ASIDE = ".earlier"
_PLAIN_PIPELINE = Path(__file__).with_name("plain_pipeline.py")


class ExportManifest(Contract):
    """Every file of an export but this one."""

    version: Literal[1] = 1
    files: tuple[FileDigest, ...]


class ExportError(TrainerError):
    """A plain pipeline reads the exported model otherwise than it was scored."""


@dataclass(frozen=True)
class Proof:
    """Test rows that the exported model has to score again: texts and ``[n, K]`` probabilities.

    ``device`` is the kind that scored them, and has to score them again.
    """

    texts: Sequence[str]
    probabilities: Floats
    device: str


def export_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str,
    proof: Proof,
    folder: Path,
) -> str:
    """Write model, tokenizer, card and manifest to ``folder``; return the manifest's digest.

    ``model.config`` and ``tokenizer`` are written as they are: labels, problem type and lengths
    have been set by whoever loaded them (``prepare_for_export``).

    Raises
    ------
    ExportError
        If a plain pipeline gives other labels, or probabilities that differ by more than 1e-5;
        the message has the figures.
    StorageError
        If the workspace can't be written.
    """
    staged = folder.with_name(f".{folder.name}.staged")
    try:
        _remove(staged)
        staged.mkdir(parents=True)
        model.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        (staged / CARD).write_text(card, encoding="utf-8")
        prove(staged, proof)
        manifest = _manifest(staged)
        (staged / MANIFEST).write_bytes(manifest)
        _put_in_place(staged, folder)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"{folder}: can't write the exported model ({error})") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return _digest(manifest)


def remove_export(folder: Path) -> None:
    """Take an earlier export away, if there is one.

    Raises
    ------
    StorageError
        If it can't be removed.
    """
    try:
        _remove(folder)
        _remove(folder.with_name(folder.name + _ASIDE))
    except OSError as error:
        raise StorageError(f"{folder}: can't remove the earlier export ({error})") from error


def export_is_whole(folder: Path, digest: str) -> bool:
    """Whether the export is the one with this manifest digest, with every file as it was.

    Raises
    ------
    StorageError
        If a file is there and can't be read.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
        if _digest(content) != digest:
            return False
        files = ExportManifest.model_validate_json(content).files
        return digest_files(folder, [file.path for file in files]) == list(files)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"{folder}: can't read the exported model ({error})") from error


def prepare_for_export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    labels: tuple[str, ...],
    max_length: int,
) -> None:
    """State in the model's own files what it would otherwise leave to a reader's defaults."""
    config = model.config
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    config.pad_token_id = tokenizer.pad_token_id
    config.name_or_path = ""
    tokenizer.model_max_length = max_length


def prove(folder: Path, proof: Proof) -> None:
    """Score the proof's texts with a plain pipeline in a fresh process and compare.

    Raises
    ------
    ExportError
        If it fails, or gives other labels or probabilities.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if proof.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    finished = subprocess.run(
        [sys.executable, "-I", str(_PLAIN_PIPELINE), str(folder)],
        input=json.dumps(list(proof.texts)),
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise ExportError(
            "the exported model does not load in a plain transformers pipeline "
            f"(exit code {finished.returncode}): {lines[-1][:500]}"
        )
    labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
    names = [labels[str(index)] for index in range(len(labels))]
    compare(names, json.loads(finished.stdout), proof.probabilities)


def compare(names: list[str], answers: list[list[dict[str, object]]], expected: Floats) -> None:
    """Hold a pipeline's answers to the probabilities that were scored, ``[n, K]`` by ``names``.

    Raises
    ------
    ExportError
        If classes, labels or probabilities differ; the message has the figures.
    """
    for answer in answers:
        if sorted(str(one["label"]) for one in answer) != sorted(names):
            raise ExportError(
                f"a plain pipeline names the classes {[one['label'] for one in answer]}, "
                f"the data {names}"
            )
    found = np.array(
        [
            [{one["label"]: one["score"] for one in answer}[name] for name in names]
            for answer in answers
        ],
        dtype=np.float64,
    )
    gap = float(np.abs(found - expected).max())
    # Where two classes are as good as equal, either may come first.
    chosen = expected[np.arange(len(expected)), found.argmax(axis=1)]
    other = int((chosen < expected.max(axis=1) - TOLERANCE).sum())
    if gap > TOLERANCE or other:
        raise ExportError(
            f"a plain pipeline gives other answers than were scored: {other} of {len(expected)} "
            f"labels differ, probabilities by up to {gap:.2e} (allowed: {TOLERANCE:.0e})"
        )


def _manifest(folder: Path) -> bytes:
    paths = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    manifest = ExportManifest(files=tuple(digest_files(folder, paths)))
    return (manifest.model_dump_json(by_alias=True, indent=2) + "\n").encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _put_in_place(staged: Path, folder: Path) -> None:
    """Rename onto the final name; a folder that stands there steps aside first.

    Between the two renames there is no export at all: the report, written last, is what says that
    there is one. Whoever may enter the folder may read the model (safetensors come with 0600).
    """
    for path in staged.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
            sync(path)
    aside = folder.with_name(folder.name + _ASIDE)
    _remove(aside)
    if folder.exists():
        folder.rename(aside)
    staged.rename(folder)
    sync(folder.parent)
    _remove(aside)


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
