"""Writes checkpoints so that a torn one does not exist, and keeps few of them.

Every rank writes its part; what was written reaches the disk; then rank 0 writes the manifest.
Only after that is the best one named and an older one removed.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from finetune_api.report import TrainResult
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_trainer.environment import Workspace
from finetune_trainer.training.gang import Gang
from finetune_trainer.training.manifest import (
    Best,
    FileDigest,
    Identity,
    Manifest,
    TrainingState,
    digest_files,
    files_of,
    sync,
    write_durably,
)
from finetune_trainer.training.resume import BEST_FILE, rotate


class CheckpointStore:
    """The checkpoints of one attempt, in the job's workspace. Called by every rank."""

    def __init__(
        self, workspace: Workspace, gang: Gang, identity: Identity, *, attempt: int, keep: int
    ) -> None:
        self.attempt = attempt
        self._workspace = workspace
        self._gang = gang
        self._identity = identity
        self._keep = keep

    @property
    def root(self) -> Path:
        """Folder of all attempts' checkpoints."""
        return self._workspace.path(LAYOUT.checkpoints)

    def path_of(self, step: int) -> str:
        """Where this attempt's checkpoint of a step lies, within the workspace."""
        return str(LAYOUT.checkpoint(self.attempt, step))

    def save(
        self, write: Callable[[Path], None], state: TrainingState, result: TrainResult | None
    ) -> None:
        """Make a complete checkpoint of what ``write`` writes into a folder."""
        folder = self._workspace.path(self.path_of(state.step))
        first = self._gang.place.is_first
        if first:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._gang.barrier()
        write(folder)
        self._gang.barrier()
        self._flush(folder)
        self._gang.barrier()
        files = self._digest(folder)
        if first:
            manifest = Manifest(
                attempt=self.attempt,
                identity=self._identity,
                state=state,
                files=tuple(files),
                result=result,
            )
            content = manifest.model_dump_json(by_alias=True, indent=1).encode()
            write_durably(folder / CHECKPOINT_MANIFEST, content)
            self.name_best(state.best)
            best = self._workspace.path(state.best.path) if state.best else None
            rotate(self.root, self._identity, keep=self._keep, best=best, attempt=self.attempt)
        self._gang.barrier()

    def name_best(self, best: Best | None) -> None:
        """Let ``best.json`` say what the newest checkpoint says; it is for readers only."""
        path = self.root / BEST_FILE
        if best is None:
            path.unlink(missing_ok=True)
        else:
            write_durably(path, best.model_dump_json(by_alias=True, indent=1).encode() + b"\n")

    def _flush(self, folder: Path) -> None:
        """Each worker waits for what its own ranks wrote; another's client can't."""
        if self._gang.place.local_rank != 0:
            return
        for path in folder.rglob("*"):
            sync(path)
        sync(folder)
        sync(folder.parent)

    def _digest(self, folder: Path) -> list[FileDigest]:
        """Digests of all files; each rank reads its share of them."""
        place = self._gang.place
        mine = files_of(folder)[place.rank :: place.world_size]
        shares = self._gang.gathered(digest_files(folder, mine))
        return sorted((file for share in shares for file in share), key=lambda file: file.path)
