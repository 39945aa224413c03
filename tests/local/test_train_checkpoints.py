"""A checkpoint exists only when it is whole and of this job; the newest such is gone on from (I8).

Written by the real store, of a gang of one rank; damaged on disk as disks and kills do.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from finetune_api.report import CurvePoint, TrainResult
from finetune_api.run import CHECKPOINT_MANIFEST
from finetune_trainer.environment import Workspace
from finetune_trainer.errors import NodeFaultError, StorageError
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.gang import Gang, claim_device, process_group
from finetune_trainer.training.manifest import (
    Best,
    Identity,
    TrainingState,
    complete_checkpoints,
    read_manifest,
)
from finetune_trainer.training.place import Place
from finetune_trainer.training.resume import BEST_FILE, choose, clear_torn, finished_before
from finetune_trainer.training.signs import SignsOfWork
from finetune_trainer.training.storage import free_bytes, persistently
from harness.processes import free_port

ALONE = Place(rank=0, world_size=1, local_rank=0, local_world_size=1)
OURS = Identity(spec_digest="sha256:" + "1" * 64, split_digest="sha256:" + "2" * 64, world_size=1)
OTHER_SPEC = OURS.model_copy(update={"spec_digest": "sha256:" + "3" * 64})
OTHER_SPLIT = OURS.model_copy(update={"split_digest": "sha256:" + "4" * 64})
TWO_RANKS = OURS.model_copy(update={"world_size": 2})
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        patch.setenv("MASTER_PORT", str(free_port()))
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        with process_group(ALONE, torch.device("cpu"), step_timeout=timedelta(minutes=1)) as gang:
            yield gang


Save = Callable[..., Path]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def save(gang: Gang, tmp_path: Path) -> Save:
    """Saves a step of an attempt; `best` is (step, loss) of the best one so far, by default it."""

    def write(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(bytes(range(256)) * 8)
        (folder / "global_step").mkdir()
        (folder / "global_step" / "optimizer.pt").write_bytes(b"moments" * 100)

    def save(
        step: int,
        *,
        attempt: int = 1,
        identity: Identity = OURS,
        best: tuple[int, float] | None = None,
        keep: int = 20,
        result: TrainResult | None = None,
        free: Callable[[Path], int] = free_bytes,
    ) -> Path:
        store = CheckpointStore(
            Workspace(tmp_path),
            gang,
            identity,
            SignsOfWork(lambda _: None),
            attempt=attempt,
            keep=keep,
            free=free,
        )
        best_step, loss = best or (step, 1 / step)
        state = TrainingState(
            step=step,
            loss=0.5,
            evaluated=True,
            best=Best(
                attempt=attempt,
                step=best_step,
                select_loss=loss,
                path=store.path_of(best_step),
            ),
            curve=(CurvePoint(step=step, loss=0.5),),
        )
        store.save(write, state, result)
        return tmp_path / store.path_of(step)

    return save


def steps(root: Path) -> list[tuple[int, int]]:
    return [checkpoint.age for checkpoint in complete_checkpoints(root)]


def remove_manifest(folder: Path) -> None:
    (folder / CHECKPOINT_MANIFEST).unlink()


def truncate_manifest(folder: Path) -> None:
    path = folder / CHECKPOINT_MANIFEST
    path.write_bytes(path.read_bytes()[:-40])


def truncate_weights(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(folder: Path) -> None:
    path = folder / "global_step" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_a_file(folder: Path) -> None:
    (folder / "global_step" / "optimizer.pt").unlink()


@pytest.mark.parametrize(
    "harm", [remove_manifest, truncate_manifest, truncate_weights, flip_a_bit, lose_a_file]
)
def test_a_torn_or_damaged_checkpoint_is_passed_over_for_the_one_before(
    save: Save, root: Path, harm: Callable[[Path], None]
) -> None:
    earlier = save(2)
    harm(save(4))
    resume = choose(root, OURS)
    assert resume is not None
    assert (resume.folder, resume.state.step) == (earlier, 2)


@pytest.mark.parametrize("identity", [OTHER_SPEC, OTHER_SPLIT])
def test_a_checkpoint_of_another_job_is_passed_over(
    save: Save, root: Path, identity: Identity, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = save(2)
    foreign = save(4, identity=identity)
    resume = choose(root, OURS)
    assert resume is not None
    assert resume.folder == earlier
    assert f"{foreign} is not resumed: it was written for another sp" in caplog.text


def test_with_nothing_whole_training_begins_anew(save: Save, root: Path) -> None:
    assert choose(root, OURS) is None
    flip_a_bit(save(2))
    assert choose(root, OURS) is None


def test_a_later_attempt_is_newer_even_at_an_earlier_step(save: Save, root: Path) -> None:
    save(8, attempt=1)
    newest = save(4, attempt=2)
    resume = choose(root, OURS)
    assert resume is not None
    assert (resume.folder, resume.attempt) == (newest, 2)


def test_a_checkpoint_of_another_number_of_ranks_is_taken_up_with_that_number(
    save: Save, root: Path
) -> None:
    newest = save(2, identity=TWO_RANKS)
    resume = choose(root, OURS)
    assert resume is not None
    assert (resume.folder, resume.ranks) == (newest, 2)


def test_torn_folders_are_cleared_and_complete_ones_stay(save: Save, root: Path) -> None:
    kept, torn = save(2), save(4)
    remove_manifest(torn)
    clear_torn(root)
    assert kept.exists()
    assert not torn.exists()


def test_rotation_keeps_the_newest_and_the_best(save: Save, root: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(step, best=(min(step, 2), 0.1), keep=2)
    assert steps(root) == [(1, 5), (1, 4), (1, 2)]


def test_rotation_touches_nothing_of_another_job_or_a_later_attempt(save: Save, root: Path) -> None:
    save(1, identity=OTHER_SPEC)
    save(9, attempt=2)
    for step in (2, 3, 4):
        save(step, keep=1)
    assert steps(root) == [(2, 9), (1, 4), (1, 1)]


def test_the_best_is_named_beside_the_checkpoints(save: Save, root: Path) -> None:
    save(3, best=(3, 0.25))
    best = Best.model_validate_json((root / BEST_FILE).read_bytes())
    assert (best.step, best.select_loss, best.path) == (3, 0.25, "checkpoints/1/3")


def test_a_best_checkpoint_that_is_gone_is_forgotten_and_can_be_found_again(
    save: Save, root: Path
) -> None:
    best = save(2)
    newest = save(4, best=(2, 0.1))
    shutil.rmtree(best)
    resume = choose(root, OURS)
    assert resume is not None
    assert (resume.folder, resume.state.best) == (newest, None)


def test_without_room_nothing_is_written_and_the_newest_and_the_best_stay(
    save: Save, root: Path
) -> None:
    for step in (1, 2, 3):
        save(step, best=(1, 0.1))
    size = sum(file.size for file in complete_checkpoints(root)[0].manifest.files)
    with pytest.raises(StorageError, match=f"took {size:,} bytes, and {size - 1:,} are free"):
        save(4, best=(1, 0.1), free=lambda _: size - 1)
    assert steps(root) == [(1, 3), (1, 1)]


def test_older_checkpoints_make_room_for_a_new_one(save: Save, root: Path) -> None:
    for step in (1, 2, 3):
        save(step, best=(3, 0.1))
    size = sum(file.size for file in complete_checkpoints(root)[0].manifest.files)
    save(4, best=(3, 0.1), free=lambda _: size * (3 - len(steps(root))))
    assert steps(root) == [(1, 4), (1, 3)]


def fails(*numbers: int) -> Callable[[], str]:
    """Some work that meets these errors, one after the other, before it is done."""
    left = list(numbers)

    def work() -> str:
        if left:
            raise OSError(left.pop(0), "the disk's word")
        return "done"

    return work


def test_what_passes_is_waited_for_and_what_does_not_is_not() -> None:
    waits = (0.0, 0.0)
    assert persistently(fails(errno.EIO, errno.ENOSPC), waits) == "done"
    with pytest.raises(OSError, match="disk's word"):
        persistently(fails(errno.EROFS, errno.EROFS, errno.EROFS), waits)
    with pytest.raises(PermissionError):
        persistently(fails(errno.EACCES), waits)


def test_only_a_finished_and_whole_training_is_served_again(save: Save, root: Path) -> None:
    result = TrainResult(steps=4, best_step=2, best_select_loss=0.1, checkpoint="checkpoints/1/2")
    best = save(2, best=(2, 0.1))
    assert finished_before(root, OURS) is None
    last = save(4, best=(2, 0.1), result=result)
    found = finished_before(root, OURS)
    assert found is not None
    assert found.result == result
    assert finished_before(root, OTHER_SPEC) is None
    truncate_weights(best)
    assert finished_before(root, OURS) is None
    assert read_manifest(last) is not None


def test_a_promised_gpu_that_is_not_there_is_the_nodes_fault() -> None:
    nowhere = Place(rank=3, world_size=4, local_rank=4096, local_world_size=4097)
    with pytest.raises(NodeFaultError, match="rank 3 was promised a GPU and sees"):
        claim_device("cuda", nowhere)


def test_deepspeed_still_has_the_switch_that_keeps_it_from_compiling() -> None:
    import deepspeed.ops
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    assert ShareMemCommBuilder.NAME == "deepspeed_shm_comm"
    assert ShareMemCommBuilder.NAME in deepspeed.ops.__compatible_ops__


def test_a_rank_starts_without_a_compiler_and_without_what_only_evaluation_needs() -> None:
    program = """
import sys
import torch.distributed as dist
from finetune_trainer.training.session import join_process_group
assert "deepspeed" in sys.modules, "loaded later, while the collector works"
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
join_process_group("gloo")
import deepspeed.ops
print(deepspeed.ops.__compatible_ops__, "sklearn" in sys.modules)
"""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "RANK": "0", "WORLD_SIZE": "1"}
    environment |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "{'deepspeed_shm_comm': False} False"
