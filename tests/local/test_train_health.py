"""Signs of a training that goes wrong, and the end of one that gets no better."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_api.health import Sign
from finetune_api.report import ExitCode, FailureClass
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_api.tasks import Task
from finetune_trainer.training.health import HealthState, observe, observe_score
from finetune_trainer.training.manifest import complete_checkpoints
from harness.tasks import ROWS, prepared, write_rows
from harness.tinymodel import sentences
from harness.training import Job, train_to_end

TRAINING: dict[str, Any] = {
    "epochs": None,
    "max_steps": 12,
    "global_batch_size": 64,
    "micro_batch_size": 16,
    "accumulation_steps": 4,
    "warmup_ratio": 0,
    "evals_per_epoch": 5,
    "checkpoint_every_steps": 1,
    "checkpoint_keep": 5,
}


def signs(
    steps: list[tuple[float, float | None]], window_steps: int = 1000
) -> list[tuple[int, Sign]]:
    """The signs with their steps; each step is its loss and its gradients' norm."""
    state, shown = HealthState(), []
    for step, (loss, norm) in enumerate(steps, start=1):
        state, seen = observe(state, loss=loss, norm=norm, window_steps=window_steps)
        shown += [(step, sign) for sign in seen]
        # What a checkpoint holds of it is all that counts.
        state = HealthState.model_validate_json(state.model_dump_json())
    return shown


USUAL = [(0.5, 1.0)] * 10


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([*USUAL, *[(0.5, 101.0)] * 3], [(13, Sign.EXPLODING_GRADIENTS)]),
        ([*USUAL, *[(0.5, 101.0)] * 2, (0.5, 1.0), (0.5, 101.0)], []),
        ([*USUAL, *[(0.5, 100.0)] * 3], []),
        ([(0.5, float("inf"))] * 3, [(3, Sign.EXPLODING_GRADIENTS)]),
        ([(0.5, 10.0**n) for n in range(9)], []),
        ([(0.5, 1e-8)] * 10, [(10, Sign.VANISHING_GRADIENTS)]),
        ([*[(0.5, 1e-8)] * 9, (0.5, 1.0), (0.5, 1e-8)], []),
        ([(0.001, 1e-8)] * 12, []),
        ([(0.5, None)] * 12, []),
    ],
)
def test_gradients_show_a_sign_only_where_it_lasts(
    steps: list[tuple[float, float | None]], expected: list[tuple[int, Sign]]
) -> None:
    assert signs(steps) == expected


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.9, 0.7, 0.8, 0.6], []),
        ([0.9, 0.7, 0.7, 0.9, 0.1, 0.2], [4]),
        ([0.9, 0.7, 0.9], []),
        ([0.5, 0.5, 0.6, 0.6, 0.5, 0.5], [4, 6]),
    ],
)
def test_a_loss_that_does_not_fall_is_seen_over_whole_windows(
    losses: list[float], expected: list[int]
) -> None:
    shown = signs([(loss, None) for loss in losses], window_steps=2)
    assert shown == [(step, Sign.LOSS_NOT_FALLING) for step in expected]


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        # From the best on, select rises by over a tenth and training falls: counted.
        ([(0.6, 0.5), (0.4, 0.4), (0.3, 0.45), (0.2, 0.5), (0.1, 0.6)], [0, 0, 1, 2, 3]),
        # A rise within a tenth is none, and breaks the row.
        ([(0.4, 0.4), (0.3, 0.45), (0.2, 0.43), (0.1, 0.5)], [0, 1, 0, 1]),
        # A training loss that does not fall is no learning by heart.
        ([(0.4, 0.4), (0.4, 0.6), (0.5, 0.7)], [0, 0, 0]),
        # A new best begins anew.
        ([(0.4, 0.4), (0.3, 0.5), (0.2, 0.3), (0.1, 0.4)], [0, 1, 0, 1]),
        # So small a loss is good whatever it was.
        ([(0.4, 0.001), (0.3, 0.005), (0.2, 0.009)], [0, 0, 0]),
    ],
)
def test_overfitting_is_a_select_loss_that_rises_while_the_training_loss_falls(
    evaluations: list[tuple[float, float]], expected: list[int]
) -> None:
    state, best, counted = HealthState(), None, []
    for train, score in evaluations:
        for shift in (-0.05, 0.05):
            state, _ = observe(state, loss=train + shift, norm=None, window_steps=1000)
        state = observe_score(state, score=score, best=best)
        state = HealthState.model_validate_json(state.model_dump_json())
        best = score if best is None else min(best, score)
        counted.append(state.fit.apart)
    assert counted == expected


@pytest.fixture(scope="module")
def by_heart(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Job:
    """Labels of coins: there is nothing to learn of them but the rows themselves."""
    chance = random.Random(3)
    folder = tmp_path_factory.mktemp("coins")
    rows = [
        (f"c{number}", text, chance.choice(("heads", "tails")))
        for number, (text, _) in enumerate(sentences(120))
    ]
    write_rows(folder, ("id", "text", "label"), rows)
    split = {"strategy": "stratified", "select": 30}
    prepared(folder, tiny_model, Task.TEXT_CLASSIFICATION, COINS, columns={"id": "id"}, split=split)
    return Job(folder, COINS, dataset={"train": ROWS, "columns": {"id": "id"}, "split": split})


COINS: dict[str, Any] = {
    "epochs": None,
    "max_steps": 60,
    "learning_rate": 3e-3,
    "global_batch_size": 32,
    "micro_batch_size": 32,
    "accumulation_steps": 1,
    "warmup_ratio": 0,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 1000,
    "dropout": 0.0,
}


@pytest.mark.parametrize("action", ["Stop", "Ignore"])
def test_a_training_that_learns_by_heart_stops_and_keeps_its_best(
    by_heart: Job, tmp_path: Path, action: str
) -> None:
    job = by_heart.copied(tmp_path / "job")
    job = dataclasses.replace(job, training=COINS | {"health": {"overfitting": action}})
    code, termination = train_to_end(job)
    assert code == ExitCode.DONE
    result = termination.train
    assert result is not None
    if action == "Ignore":
        assert (result.steps, result.stopped_early, result.overfitting) == (60, False, None)
        return
    found = result.overfitting
    assert found is not None
    assert result.stopped_early
    assert result.steps == found.step < 60
    assert result.best_step == found.best_step < found.step
    assert found.select_loss > 1.1 * found.best_select_loss
    assert found.train_loss < found.train_loss_at_best
    assert result.checkpoint.endswith(f"/{found.best_step}")
    assert "Overfitting at step" in (job.folder / "log-1-0.txt").read_text()


def a_job(job: Job, folder: Path, **training: Any) -> Job:
    return dataclasses.replace(job.copied(folder), training=TRAINING | training)


@pytest.mark.parametrize("action", ["Fail", "Warn"])
def test_weights_that_do_not_change_are_acted_on_as_the_manifest_says(
    prepared_job: Job, tmp_path: Path, action: str
) -> None:
    job = a_job(
        prepared_job,
        tmp_path / "job",
        max_steps=2,
        learning_rate=1e-50,
        health={"unchangedParameters": action},
    )
    code, termination = train_to_end(job)
    log = (job.folder / "log-1-0.txt").read_text()
    assert "UnchangedParameters at step 1: no weight has changed" in log
    if action == "Warn":
        assert (code, termination.failure) == (ExitCode.DONE, None)
        return
    assert termination.failure is not None
    assert (code, termination.failure.failure_class) == (ExitCode.USAGE, FailureClass.USER_ERROR)
    assert "raise training.learningRate" in termination.failure.message


def test_early_stopping_keeps_its_patience_over_a_resume(prepared_job: Job, tmp_path: Path) -> None:
    # Nothing counts as better after the first score.
    rule = {"patience": 3, "minDelta": 100}
    job = a_job(prepared_job, tmp_path / "job", early_stopping=rule)
    ends = []
    for attempt in (1, 2):
        code, termination = train_to_end(job, attempt)
        assert code == ExitCode.DONE
        assert termination.train is not None
        assert termination.train.stopped_early
        ends.append((termination.train.steps, termination.train.best_step))
        if attempt == 1:
            last = job.workspace / LAYOUT.checkpoint(1, termination.train.steps)
            (last / CHECKPOINT_MANIFEST).unlink()
            left = complete_checkpoints(job.checkpoints)[0].manifest.state
            assert left.evaluations_without_better == 2
    assert ends[0][0] == 4
    assert ends[1] == ends[0]
