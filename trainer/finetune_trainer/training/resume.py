"""Which checkpoint an attempt goes on from, what is refused and why, and what is cleared away.

Asked once per attempt, by rank 0 alone (the others are told), and by the launcher, which serves a
finished training without loading anything. No torch.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from finetune_api.run import CHECKPOINT_MANIFEST
from finetune_trainer.training.manifest import (
    Best,
    Checkpoint,
    Identity,
    Manifest,
    TrainingState,
    complete_checkpoints,
    damage,
    read_manifest,
    step_folders,
)

BEST_FILE = "best.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resume:
    """Where an attempt goes on: the folder to load, who wrote it, and what training knew.

    ``ranks`` is the number of ranks that wrote it; this attempt may have another.
    """

    folder: Path
    attempt: int
    ranks: int
    state: TrainingState


def choose(root: Path, identity: Identity) -> Resume | None:
    """The newest checkpoint that is whole and of this very job; None to begin anew."""
    for checkpoint in complete_checkpoints(root):
        refused = _foreign(checkpoint, identity)
        if refused is None:
            refused = damage(checkpoint)
        if refused is not None:
            _log.warning("%s is not resumed: %s", checkpoint.folder, refused)
            continue
        return Resume(
            folder=checkpoint.folder,
            attempt=checkpoint.manifest.attempt,
            ranks=checkpoint.manifest.identity.world_size,
            state=_with_intact_best(root, checkpoint),
        )
    return None


def finished_before(root: Path, identity: Identity) -> Manifest | None:
    """The manifest that ends the training, if one is there and its best model is still whole."""
    for checkpoint in complete_checkpoints(root):
        if _foreign(checkpoint, identity) is not None:
            continue
        manifest = checkpoint.manifest
        best = manifest.state.best
        if manifest.result is None or best is None or damage(checkpoint) is not None:
            return None
        return manifest if _best_is_whole(root, best) else None
    return None


def clear_torn(root: Path) -> None:
    """Remove what earlier attempts left without a manifest. Their gangs are gone by now."""
    for folder in list(step_folders(root)):
        if not (folder / CHECKPOINT_MANIFEST).exists():
            _log.warning("%s is removed: it was not completed", folder)
            shutil.rmtree(folder)


def rotate(root: Path, identity: Identity, *, keep: int, best: Path | None, attempt: int) -> None:
    """Keep the ``keep`` newest checkpoints of this job, and the best one beside them.

    Those of a later attempt are never touched: then this process is the stale one.
    """
    mine = [
        checkpoint
        for checkpoint in complete_checkpoints(root)
        if _foreign(checkpoint, identity) is None and checkpoint.manifest.attempt <= attempt
    ]
    for checkpoint in mine[keep:]:
        if checkpoint.folder != best:
            # Without its manifest it no longer exists, however far the removal gets.
            (checkpoint.folder / CHECKPOINT_MANIFEST).unlink()
            shutil.rmtree(checkpoint.folder)


def _foreign(checkpoint: Checkpoint, identity: Identity) -> str | None:
    theirs = checkpoint.manifest.identity
    if theirs.spec_digest != identity.spec_digest:
        return (
            f"it was written for another spec ({theirs.spec_digest[:19]}…, this job's is "
            f"{identity.spec_digest[:19]}…)"
        )
    if theirs.split_digest != identity.split_digest:
        return (
            f"it was written for another split of the rows ({theirs.split_digest[:19]}…, the "
            f"prepared one is {identity.split_digest[:19]}…)"
        )
    return None


def _with_intact_best(root: Path, checkpoint: Checkpoint) -> TrainingState:
    """The checkpoint's state, its best one forgotten if that is no longer whole.

    Where rotation took it, a later and better one had been found, and will be again.
    """
    state = checkpoint.manifest.state
    if state.best is None or _best_is_whole(root, state.best):
        return state
    _log.warning("%s: its best checkpoint %s is gone", checkpoint.folder, state.best.path)
    return state.model_copy(update={"best": None})


def _best_is_whole(root: Path, best: Best) -> bool:
    folder = root / str(best.attempt) / str(best.step)
    manifest = read_manifest(folder)
    return manifest is not None and damage(Checkpoint(folder, manifest)) is None
