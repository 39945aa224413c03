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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.markers import Contract
from finetune_trainer.errors import StorageError
from finetune_trainer.models.generation import settle_generation
from finetune_trainer.models.heads import Head
from finetune_trainer.models.lora import ADAPTER_FILES
from finetune_trainer.models.processors import Processor
from finetune_trainer.models.proof import ExportError, Proof
from finetune_trainer.training.manifest import FileDigest, digest_files, sync

MANIFEST = "manifest.json"
CARD = "README.md"
_ASIDE = ".earlier"
_PLAIN_PIPELINE = Path(__file__).with_name("plain_pipeline.py")


class ExportManifest(Contract):
    """Every file of an export but this one."""

    version: Literal[1] = 1
    files: tuple[FileDigest, ...]


@dataclass(frozen=True)
class Adapter:
    """An adapter that leaves the job instead of a whole model: its folder, and its base model's."""

    trained: Path
    base: Path
    head: Head


def export_model(
    model: PreTrainedModel,
    processor: Processor,
    card: str,
    proof: Proof,
    folder: Path,
    adapter: Adapter | None = None,
    serving: Mapping[str, str] | None = None,
) -> str:
    """Write model or adapter, processor, card and manifest to ``folder``; return its digest.

    ``serving`` are further texts by their paths (``models.serving``).

    ``model.config`` and ``processor`` (a tokenizer, or an image processor) are written as they are:
    labels, problem type and lengths have been set by whoever loaded them (``prepare_for_export``).

    Raises
    ------
    ExportError
        If a plain pipeline gives other answers than were scored; the message has the figures.
    StorageError
        If the workspace can't be written.
    """
    staged = folder.with_name(f".{folder.name}.staged")
    try:
        _remove(staged)
        staged.mkdir(parents=True)
        if adapter is None:
            model.save_pretrained(staged)
        else:
            _copy_adapter(model, adapter, staged)
        processor.save_pretrained(staged)
        for path, text in {CARD: card, **(serving or {})}.items():
            (staged / path).parent.mkdir(exist_ok=True)
            (staged / path).write_text(text, encoding="utf-8")
        prove(staged, proof, adapter)
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
        return list(digest_files(folder, [file.path for file in files])) == list(files)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"{folder}: can't read the exported model ({error})") from error


def changed_since_export(folder: Path) -> list[str]:
    """Names of an export's files that are gone or not as they were; its card is people's to edit.

    Without a manifest a folder is of another's making, and there is nothing to hold it against.

    Raises
    ------
    OSError
        If a file is there and can't be read.
    """
    try:
        manifest = ExportManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return []
    except ValidationError:
        return [MANIFEST]
    files = {file.path: file for file in manifest.files if file.path != CARD}
    there = {path: file for path, file in files.items() if (folder / path).is_file()}
    same = {one.path for one in digest_files(folder, there) if one == there[one.path]}
    return [path for path in files if path not in same]


def prepare_for_export(
    model: PreTrainedModel,
    processor: Processor,
    head: Head,
    labels: tuple[str, ...],
    max_length: int | None,
) -> None:
    """State in the model's own files what it would otherwise leave to a reader's defaults."""
    config = model.config
    head.settle(config, labels)
    config.name_or_path = ""
    if not isinstance(processor, PreTrainedTokenizerBase):
        return
    config.pad_token_id = processor.pad_token_id
    if head.generates:
        settle_generation(model, processor)
    elif max_length is not None:
        processor.model_max_length = max_length


def _copy_adapter(model: PreTrainedModel, adapter: Adapter, staged: Path) -> None:
    for name in ADAPTER_FILES:
        shutil.copyfile(adapter.trained / name, staged / name)
    # Without it a reader would take the base model's labels.
    model.config.save_pretrained(staged)
    if adapter.head.generates:
        # Nor would it know where to stop.
        model.generation_config.save_pretrained(staged)


def prove(folder: Path, proof: Proof, adapter: Adapter | None = None) -> None:
    """Score the proof's inputs with a plain pipeline in a fresh process and compare.

    Raises
    ------
    ExportError
        If it fails, or gives other answers.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # As the rows were scored: no number of a convolution is rounded on the way.
    environment["NVIDIA_TF32_OVERRIDE"] = "0"
    if proof.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    finished = subprocess.run(
        [sys.executable, "-I", str(_PLAIN_PIPELINE), str(folder)],
        input=json.dumps(
            {
                "base": str(adapter.base) if adapter else None,
                "auto": adapter.head.auto.__name__ if adapter else None,
                "processor": proof.pipeline.processor,
                "task": proof.pipeline.task,
                "settings": proof.pipeline.settings,
                "call": proof.pipeline.call,
                "inputs": list(proof.inputs),
            }
        ),
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
    proof.compare(json.loads(finished.stdout))


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
