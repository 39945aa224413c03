"""The checkpoint that is scored: checked against its manifest and the split, then loaded whole."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.datareport import PrepareReport
from finetune_api.lora import LoraOutput
from finetune_api.markers import Digest
from finetune_api.run import CHECKPOINT_MANIFEST, Run
from finetune_trainer.data.sources import model_folder
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import DataError, NodeFaultError, StorageError, UsageError
from finetune_trainer.models.generation import settle_generation
from finetune_trainer.models.heads import Head
from finetune_trainer.models.load import load_model
from finetune_trainer.models.lora import load_adapter, merged
from finetune_trainer.models.processors import Processor, load_processor
from finetune_trainer.training.manifest import Checkpoint, damage, read_manifest


@dataclass(frozen=True)
class ScoredCheckpoint:
    """A checkpoint that belongs to this run and split, and is what was written."""

    checkpoint: Checkpoint
    manifest_digest: Digest

    @property
    def step(self) -> int:
        """The optimizer step that it holds."""
        return self.checkpoint.manifest.state.step


def find_checkpoint(
    environment: RankEnvironment, run: Run, prepared: PrepareReport
) -> ScoredCheckpoint:
    """Find and verify the run's best checkpoint, every file by size and digest.

    Raises
    ------
    UsageError
        If the run names none, or one of another job.
    DataError
        If it was trained on another split: its training rows may be among these test rows.
    StorageError
        If it is incomplete, damaged or can't be read.
    """
    if run.best_checkpoint is None:
        raise UsageError("bestCheckpoint is not set: there is nothing to evaluate before training")
    folder = environment.workspace.path(run.best_checkpoint)
    if not folder.resolve().is_relative_to(environment.workspace.root.resolve()):
        raise UsageError(f"bestCheckpoint: {run.best_checkpoint!r} leads out of the workspace")
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            raise StorageError(f"{folder}: no complete checkpoint; train again")
        _require_same(manifest.identity.spec_digest, run.spec_digest, str(folder))
        if manifest.identity.split_digest != prepared.data.split_digest:
            raise DataError(
                f"{folder}: trained on another split of the rows "
                f"({manifest.identity.split_digest[:19]}…, the prepared one is "
                f"{prepared.data.split_digest[:19]}…), so test rows may be among its training "
                "rows; prepare and train again"
            )
        checkpoint = Checkpoint(folder, manifest)
        wrong = damage(checkpoint)
        if wrong is not None:
            raise StorageError(f"{folder}: the checkpoint is damaged: {wrong}; train again")
        content = (folder / CHECKPOINT_MANIFEST).read_bytes()
    except OSError as error:
        raise StorageError(f"{folder}: can't read the checkpoint ({error})") from error
    return ScoredCheckpoint(checkpoint, f"sha256:{hashlib.sha256(content).hexdigest()}")


def load_checkpoint(
    found: ScoredCheckpoint,
    environment: RankEnvironment,
    run: Run,
    head: Head,
    labels: tuple[str, ...],
) -> tuple[PreTrainedModel, Processor]:
    """Load the model in fp32 on the run's device, with the base model's tokenizer or processor.

    What was trained in bf16 is scored, and exported, in the same numbers at full width.

    Raises
    ------
    UsageError
        If the weights are not all there, or have other classes than the data.
    NodeFaultError
        If the run was promised a GPU and none is visible.
    """
    # Convolutions would round to 10 bits on a GPU, each batch size otherwise.
    torch.backends.cudnn.allow_tf32 = False
    if run.gang.device == "cuda" and not torch.cuda.is_available():
        raise NodeFaultError("the evaluate step was promised a GPU, and none is visible")
    folder = found.checkpoint.folder
    if run.model.adaptation is not None:
        return _adapted(folder, environment, run, head, labels)
    model, loading = head.auto.from_pretrained(
        folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
    )
    absent = sorted({*loading["missing_keys"], *(name for name, *_ in loading["mismatched_keys"])})
    if absent:
        raise UsageError(f"{folder}: weights are missing or misshapen: {', '.join(absent[:5])}")
    base = model_folder(run, environment)
    processor = load_processor(base, run.model.uri, head)
    if head.generates and isinstance(processor, PreTrainedTokenizerBase):
        settle_generation(model, processor)
    else:
        _require_classes(model, labels, folder)
    return model.to(run.gang.device), processor


def _require_classes(model: PreTrainedModel, labels: tuple[str, ...], folder: Path) -> None:
    theirs = tuple(label for _, label in sorted((model.config.id2label or {}).items()))
    if theirs != labels:
        raise UsageError(
            f"{folder}: the model's classes are {list(theirs[:5])}, those of the data "
            f"{list(labels[:5])}; train again"
        )


def _adapted(
    folder: Path, environment: RankEnvironment, run: Run, head: Head, labels: tuple[str, ...]
) -> tuple[PreTrainedModel, Processor]:
    """The base model with the checkpoint's adapter, in the form in which it will leave the job."""
    lora = run.model.adaptation
    assert lora is not None
    base = model_folder(run, environment)
    loaded = load_model(
        base, run.model.uri, head, labels, dropout=run.training.dropout, seed=run.training.seed
    )
    try:
        adapted = load_adapter(loaded.model, folder)
    except (KeyError, ValueError, RuntimeError, TypeError, SafetensorError) as error:
        raise DataError(
            f"{folder}: its adapter can't be put onto {run.model.uri} "
            f"({type(error).__name__}: {str(error)[:200]}); run the train step again"
        ) from error
    # The base class, with the adapter's layers in their places.
    whole: Any = adapted.get_base_model() if lora.output is LoraOutput.ADAPTER else merged(adapted)
    return whole.to(run.gang.device), loaded.processor


def _require_same(theirs: Digest, ours: Digest, where: str) -> None:
    if theirs != ours:
        raise UsageError(
            f"{where}: written for another spec ({theirs[:19]}…, this job's is {ours[:19]}…)"
        )
