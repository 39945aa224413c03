"""Whatever ends an attempt, the job ends as if nothing had: same losses, same weights (I8, I10).

Dropout is on, so random numbers have to be taken up as exactly as weights and optimizer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune_api.report import ExitCode, FailureClass, Termination
from finetune_api.run import LAYOUT
from finetune_trainer.training.manifest import Best, complete_checkpoints
from finetune_trainer.training.resume import BEST_FILE, choose
from harness.tensorboard import scalars
from harness.training import Job, pods, running_processes, train_to_end, wait_until_gone

STEPS = 20
KEEP = 2
TOLERANCE = 1e-4
TRAINING = {
    "epochs": None,
    "max_steps": STEPS,
    "global_batch_size": 64,
    "micro_batch_size": 16,
    "accumulation_steps": 2,
    "learning_rate": 2e-3,
    "dropout": 0.1,
    "evals_per_epoch": 5,
    "checkpoint_every_steps": 2,
    "checkpoint_keep": KEEP,
}


@pytest.fixture(scope="module")
def fresh(prepared_job: Job) -> Job:
    """A job of two ranks that is scored after each of its steps and saved at least every other."""
    return dataclasses.replace(prepared_job, training=TRAINING, ranks=2)


@pytest.fixture(scope="module")
def undisturbed(fresh: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Termination]:
    job = fresh.copied(tmp_path_factory.mktemp("undisturbed") / "job")
    with pods(job, 1) as gang:
        progress = gang[0].wait_until(lambda progress: progress.step >= 2)
        samples = gang[0].metrics()
        code, termination = gang[0].end()
        assert code == ExitCode.DONE, gang[0].log.read_text()
    assert (progress.pod_uid, progress.attempt, progress.total_steps) == ("pod-1-0", 1, STEPS)
    # Seven to seventeen words and two marks make a row.
    assert progress.rows_per_second is not None
    assert progress.tokens_per_second is not None
    assert 9 <= progress.tokens_per_second / progress.rows_per_second <= 19
    assert progress.remaining_evaluations <= STEPS - progress.step
    assert f"finetune_trainer_steps_planned {STEPS}.0" in samples
    return job, termination


@pytest.fixture(scope="module")
def stopped(fresh: Job, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Termination]:
    """The same job, asked to stop while it loads, and again (twice) amid its steps."""
    job = fresh.copied(tmp_path_factory.mktemp("stopped") / "job")
    with pods(job, 1) as gang:
        gang[0].wait_until(lambda progress: progress.stage == "loading")
        gang[0].process.terminate()
        code, termination = gang[0].end()
        assert (code, termination.failure) == (ExitCode.STOPPED, None), gang[0].log.read_text()
        assert termination.marks.checkpoint_step is None
    with pods(job, 2) as gang:
        gang[0].wait_until(lambda progress: progress.step >= 3)
        gang[0].process.terminate()
        gang[0].process.send_signal(signal.SIGINT)
        code, termination = gang[0].end()
        assert (code, termination.failure) == (ExitCode.STOPPED, None), gang[0].log.read_text()
    return job, termination


def assert_same_end(job: Job, attempt: int, undisturbed: tuple[Job, Termination]) -> None:
    """Losses, scores, best checkpoint and final weights are those of the undisturbed job."""
    reference = undisturbed[0].manifest(1, STEPS)
    manifest = job.manifest(attempt, STEPS)
    for point, expected in zip(manifest.state.curve, reference.state.curve, strict=True):
        assert point.step == expected.step
        assert point.loss == pytest.approx(expected.loss, abs=TOLERANCE)
        assert point.select_loss == pytest.approx(expected.select_loss, abs=TOLERANCE)
    assert manifest.result is not None
    assert reference.result is not None
    assert manifest.result.best_step == reference.result.best_step
    weights, expected_weights = (
        load_file(one.workspace / LAYOUT.checkpoint(number, STEPS) / "model.safetensors")
        for one, number in ((job, attempt), (undisturbed[0], 1))
    )
    torch.testing.assert_close(weights, expected_weights, atol=TOLERANCE, rtol=0)


def test_a_stop_saves_the_step_it_agreed_on(stopped: tuple[Job, Termination]) -> None:
    job, termination = stopped
    step = termination.marks.last_step
    assert 3 <= step < STEPS
    assert termination.marks.checkpoint_step == step
    assert job.manifest(2, step).state.step == step


def test_a_stopped_job_goes_on_exactly(
    stopped: tuple[Job, Termination],
    undisturbed: tuple[Job, Termination],
    tmp_path: Path,
) -> None:
    job = stopped[0].copied(tmp_path / "job")
    code, termination = train_to_end(job, 3)
    assert code == ExitCode.DONE
    assert termination.marks.resumed_from_step == stopped[1].marks.last_step
    assert termination.marks.resumed_from_attempt == 2
    assert_same_end(job, 3, undisturbed)
    curves, expected = (
        scalars(one.workspace / LAYOUT.tensorboard) for one in (job, undisturbed[0])
    )
    assert curves.keys() == expected.keys()
    for name in ("train/loss", "train/learning_rate", "select/loss"):
        assert curves[name].keys() == expected[name].keys()
        for step, values in curves[name].items():
            assert values == pytest.approx(expected[name][step], abs=TOLERANCE)


def test_a_killed_rank_ends_the_gang_and_the_next_attempt_goes_on_exactly(
    fresh: Job, undisturbed: tuple[Job, Termination], tmp_path: Path
) -> None:
    job = fresh.copied(tmp_path / "job")
    with pods(job, 1) as gang:
        gang[0].wait_until(lambda progress: (progress.marks.checkpoint_step or 0) >= 2)
        ranks = gang[0].ranks()
        os.kill(ranks[1], signal.SIGKILL)
        code, termination = gang[0].end()
        assert not running_processes().keys() & set(ranks)
    assert code == 128 + signal.SIGKILL
    assert termination.failure is not None
    assert (termination.failure.rank, termination.failure.failure_class) == (
        1,
        FailureClass.UNKNOWN,
    )
    assert "SIGKILL" in termination.failure.message
    # The kill may have come between a manifest and the word of it.
    newest = complete_checkpoints(job.checkpoints)[0].manifest.state.step
    assert termination.marks.checkpoint_step is not None
    assert newest >= termination.marks.checkpoint_step >= 2
    code, termination = train_to_end(job, 2)
    assert code == ExitCode.DONE
    assert termination.marks.resumed_from_step == newest
    assert_same_end(job, 2, undisturbed)


def test_a_full_disk_ends_as_storage_and_leaves_the_last_checkpoint_whole(
    stopped: tuple[Job, Termination], tmp_path: Path
) -> None:
    job = stopped[0].copied(tmp_path / "job")
    newest = complete_checkpoints(job.checkpoints)[0]
    code, termination = train_to_end(job, 3, largest_file=40_000)
    assert termination.failure is not None
    assert (code, termination.failure.failure_class) == (
        ExitCode.STORAGE,
        FailureClass.STORAGE,
    ), termination.failure
    assert "can't save the checkpoint of step" in termination.failure.message
    resumed = choose(job.checkpoints, newest.manifest.identity)
    assert resumed is not None
    assert resumed.folder == newest.folder


def test_a_killed_launcher_takes_its_ranks_along(fresh: Job, tmp_path: Path) -> None:
    job = fresh.copied(tmp_path / "job")
    with pods(job, 1) as gang:
        gang[0].wait_until(lambda progress: progress.stage == "loading")
        ranks = gang[0].ranks()
        assert len(ranks) == 2
        gang[0].process.kill()
        try:
            wait_until_gone(ranks)
        finally:
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGKILL)


def test_a_loss_that_is_no_number_is_named(prepared_job: Job, tmp_path: Path) -> None:
    job = dataclasses.replace(
        prepared_job.copied(tmp_path / "job"),
        training={**TRAINING, "accumulation_steps": 4, "learning_rate": 1e30},
    )
    code, termination = train_to_end(job)
    assert termination.failure is not None
    assert (code, termination.failure.failure_class) == (
        ExitCode.USAGE,
        FailureClass.USER_ERROR,
    ), termination.failure
    assert "diverged" in termination.failure.message
    assert "at step 2" in termination.failure.message
    assert "training.learningRate" in termination.failure.message
    assert all(c.manifest.state.step < 2 for c in complete_checkpoints(job.checkpoints))


def test_a_finished_training_is_served_again_without_training(
    undisturbed: tuple[Job, Termination], tmp_path: Path
) -> None:
    job = undisturbed[0].copied(tmp_path / "job")
    # No rank could train without its model: only what is stored can be the answer.
    shutil.rmtree(job.folder / "claims")
    code, termination = train_to_end(job, 2)
    assert code == ExitCode.DONE
    assert termination.train == undisturbed[1].train
    assert (termination.marks.resumed_from_attempt, termination.marks.last_step) == (1, STEPS)
    assert not (job.checkpoints / "2").exists()


def test_rotation_keeps_the_newest_and_the_best(undisturbed: tuple[Job, Termination]) -> None:
    job, termination = undisturbed
    assert termination.train is not None
    kept = {
        str(checkpoint.folder.relative_to(job.workspace))
        for checkpoint in complete_checkpoints(job.checkpoints)
    }
    best = Best.model_validate_json((job.checkpoints / BEST_FILE).read_bytes())
    assert best.path == termination.train.checkpoint
    assert best.select_loss == termination.train.best_select_loss
    steps = sorted(int(path.rpartition("/")[2]) for path in kept - {best.path})
    assert best.path in kept
    assert 1 <= len(steps) <= KEEP
    assert job.manifest(1, STEPS).state.best == best
