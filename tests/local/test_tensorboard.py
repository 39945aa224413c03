"""The curves of a training, as TensorBoard reads them: each step once, whatever happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.reporting.events import Evaluated, Event, Planned, Staged, Stepped
from finetune_trainer.reporting.tensorboard import TensorBoardFiles
from harness.tensorboard import scalars

NOON = "2026-01-01T12:00:00Z"
STEP = {"at": NOON, "rows": 32, "remaining_checkpoints": 1, "remaining_evaluations": 1}
PLAN = {**STEP, "total_steps": 9, "curve": (), "curve_stride": 1}


def planned(step: int, attempt: int | None = None) -> Planned:
    return Planned.model_validate(
        {key: value for key, value in PLAN.items() if key != "rows"}
        | {"step": step, "resumed_from_attempt": attempt}
    )


def stepped(step: int, loss: float, norm: float | None = 1.5) -> Stepped:
    return Stepped.model_validate(
        {**STEP, "step": step, "loss": loss, "learning_rate": 0.25, "gradient_norm": norm}
        | {"tokens": 640, "seconds": 0.5}
    )


def tell(folder: Path, attempt: int, *events: Event) -> None:
    files = TensorBoardFiles(folder, attempt=attempt)
    for event in events:
        files.hear(event)


def test_every_figure_stands_at_its_step(tmp_path: Path) -> None:
    scored = Evaluated(step=2, select_loss=0.75, milliseconds=10)
    steps = (stepped(1, 3.0), stepped(2, 2.0, norm=None))
    tell(tmp_path / "t", 1, planned(0), *steps, scored, Staged(stage="done"))
    assert scalars(tmp_path / "t") == {
        "train/loss": {1: [3.0], 2: [2.0]},
        "train/learning_rate": {1: [0.25], 2: [0.25]},
        "train/tokens_per_second": {1: [1280.0], 2: [1280.0]},
        "train/gradient_norm": {1: [1.5]},
        "select/loss": {2: [0.75]},
    }


def test_an_attempt_that_goes_on_takes_the_place_of_what_was_done_after_its_checkpoint(
    tmp_path: Path,
) -> None:
    done = [stepped(step, float(step)) for step in range(1, 6)]
    tell(tmp_path, 1, planned(0), *done, Staged(stage="training"))
    again = [stepped(step, 10.0 + step) for step in range(3, 5)]
    tell(tmp_path, 2, planned(2, 1), *again, Staged(stage="done"))
    losses = {1: [1.0], 2: [2.0], 3: [13.0], 4: [14.0]}
    assert scalars(tmp_path)["train/loss"] == losses


def test_a_storage_that_fails_is_told_once_and_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "tensorboard"
    folder.write_text("a file is in the way")
    tell(folder, 1, planned(0), stepped(1, 1.0), Staged(stage="done"))
    (message,) = caplog.messages
    assert message.startswith(f"no more is written for TensorBoard: {folder}: ")
