"""Writes checkpoints so that a torn one does not exist, and keeps few of them.

Before ranks write together there has to be room; where there is too little, older checkpoints go
first. What rank 0 does alone is tried again while storage fails.

Every rank writes its part; what was written reaches the disk; then rank 0 writes the manifest.
Only after that is the best one named and an older one removed.
"""

import logging
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from finetune_api.report import TrainResult
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_trainer.environment import Workspace
from finetune_trainer.errors import StorageError
from finetune_trainer.training.failure import is_of_storage
from finetune_trainer.training.gang import Gang
from finetune_trainer.training.manifest import (
    Best,
    FileDigest,
    Identity,
    Manifest,
    TrainingState,
    complete_checkpoints,
    digest_files,
    files_of,
    sync,
    write_durably,
)
from finetune_trainer.training.resume import BEST_FILE, rotate
from finetune_trainer.training.signs import SignsOfWork
from finetune_trainer.training.storage import free_bytes, persistently, require_room

_log = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one attempt, in the job's workspace. Called by every rank."""

    def __init__(
        self,
        workspace: Workspace,
        gang: Gang,
        identity: Identity,
        signs: SignsOfWork,
        *,
        attempt: int,
        keep: int,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self.attempt = attempt
        self._workspace = workspace
        self._gang = gang
        self._identity = identity
        self._signs = signs
        self._keep = keep
        self._free = free

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
        """Make a complete checkpoint of what ``write`` writes into a folder.

        Raises
        ------
        StorageError
            If it can't be written; the last complete checkpoint is then as it was.
        """
        folder = self._workspace.path(self.path_of(state.step))
        try:
            with self._gang.patiently(self._signs):
                self._save(folder, write, state, result)
        except Exception as error:
            # Libraries raise errors of their own for a write that failed.
            if isinstance(error, StorageError) or not is_of_storage(error):
                raise
            raise StorageError(
                f"{folder}: can't save the checkpoint of step {state.step} ({error}); the last "
                "complete one stays. See that the volume has room and can be written"
            ) from error

    def _save(
        self,
        folder: Path,
        write: Callable[[Path], None],
        state: TrainingState,
        result: TrainResult | None,
    ) -> None:
        first = self._gang.place.is_first
        if first:
            persistently(lambda: self._begin(folder, state.best))
        self._gang.barrier()
        with self._signs.while_it_grows(folder) if first else nullcontext():
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
            persistently(lambda: write_durably(folder / CHECKPOINT_MANIFEST, content))
            self._signs.give()
            persistently(lambda: self.name_best(state.best))
            self._signs.give()
            persistently(lambda: self._rotate(state.best, keep=self._keep))
        self._gang.barrier()

    def name_best(self, best: Best | None) -> None:
        """Let ``best.json`` say what the newest checkpoint says; it is for readers only."""
        path = self.root / BEST_FILE
        if best is None:
            path.unlink(missing_ok=True)
        else:
            write_durably(path, best.model_dump_json(by_alias=True, indent=1).encode() + b"\n")

    def _begin(self, folder: Path, best: Best | None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        complete = complete_checkpoints(self.root)
        needed = sum(file.size for file in complete[0].manifest.files) if complete else 0
        if self._free(folder) < needed and self._keep > 1:
            _log.warning("%s: little room is left: only the newest checkpoint is kept", self.root)
            self._rotate(best, keep=1)
        require_room(folder, needed, self._free(folder))

    def _rotate(self, best: Best | None, *, keep: int) -> None:
        path = self._workspace.path(best.path) if best else None
        rotate(self.root, self._identity, keep=keep, best=path, attempt=self.attempt)

    def _flush(self, folder: Path) -> None:
        """Each worker waits for what its own ranks wrote; another's client can't."""
        if self._gang.place.local_rank != 0:
            return
        for path in folder.rglob("*"):
            sync(path)
            self._signs.give()
        sync(folder)
        sync(folder.parent)

    def _digest(self, folder: Path) -> list[FileDigest]:
        """Digests of all files; each rank reads its share of them."""
        place = self._gang.place
        mine = files_of(folder)[place.rank :: place.world_size]
        digests = []
        for digest in digest_files(folder, mine):
            digests.append(digest)
            self._signs.give()
        shares = self._gang.gathered(digests)
        return sorted((file for share in shares for file in share), key=lambda file: file.path)
