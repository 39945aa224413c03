"""What rank 0 says, folded into the bounded progress that the operator pulls."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import Progress, TrainResult
from finetune_trainer.errors import UsageError
from finetune_trainer.reporting.curve import Curve
from finetune_trainer.reporting.events import (
    Evaluated,
    Event,
    Finished,
    Planned,
    Saved,
    Staged,
    Stepped,
    read_event,
    write_event,
)
from finetune_trainer.reporting.metrics import render_metrics
from finetune_trainer.reporting.narration import Narration
from finetune_trainer.reporting.pages import progress_pages
from finetune_trainer.reporting.progress import ProgressLog
from finetune_trainer.reporting.server import serving
from harness.processes import free_port

NOON = "2026-01-01T12:00:00Z"


def a_log() -> ProgressLog:
    return ProgressLog(pod_uid="pod-1", attempt=2, started_at=NOON)


def planned(step: int = 0, attempt: int | None = None) -> Planned:
    return Planned(
        at=NOON,
        step=step,
        total_steps=100,
        resumed_from_attempt=attempt,
        curve=(),
        curve_stride=1,
        remaining_checkpoints=3,
        remaining_evaluations=2,
    )


def stepped(step: int, loss: float = 0.5, seconds: float = 0.25) -> Stepped:
    return Stepped(
        at="2026-01-01T12:00:01.500Z",
        step=step,
        loss=loss,
        learning_rate=1e-4,
        gradient_norm=1.5,
        rows=32,
        tokens=640,
        seconds=seconds,
        remaining_checkpoints=1,
        remaining_evaluations=1,
    )


@given(st.lists(st.floats(0, 100), max_size=900), st.integers(1, 50))
def test_a_curve_has_at_most_sixty_points_and_ends_with_the_newest_score(
    losses: list[float], score_every: int
) -> None:
    curve, newest = Curve(), None
    for step, loss in enumerate(losses, start=1):
        curve.add_loss(step, loss)
        if step % score_every == 0:
            curve.add_score(step, loss)
            newest = step
    points = curve.points()
    assert len(points) <= 60
    assert [point.step for point in points] == sorted({point.step for point in points})
    assert max((p.step for p in points if p.select_loss is not None), default=None) == newest


@given(st.integers(1, 1000))
def test_a_thinned_curve_keeps_the_mean_of_what_it_stands_for(steps: int) -> None:
    curve = Curve()
    for step in range(1, steps + 1):
        curve.add_loss(step, float(step))
    shown = [point for point in curve.points() if point.loss is not None]
    for earlier, later in zip([0, *(p.step for p in shown)], shown, strict=False):
        assert later.step - earlier == curve.stride
        assert later.loss == pytest.approx((earlier + 1 + later.step) / 2)


@pytest.mark.parametrize(
    "event",
    [
        Staged(stage="loading"),
        planned(),
        stepped(3),
        Evaluated(step=3, select_loss=0.4, milliseconds=12),
        Saved(at=NOON, step=3, milliseconds=9),
    ],
)
def test_an_event_survives_its_line(event: Event) -> None:
    line = write_event(event)
    assert line.count(b"\n") == 1
    assert read_event(line) == event


def test_progress_folds_events_into_rates_marks_and_means() -> None:
    log = a_log()
    log.apply(planned(step=10, attempt=1))
    for step, seconds in ((11, 9.0), (12, 0.5), (13, 0.5)):
        log.apply(stepped(step, seconds=seconds))
    for milliseconds in (100, 300):
        log.apply(Evaluated(step=13, select_loss=0.4, milliseconds=milliseconds))
        log.apply(Saved(at=NOON, step=13, milliseconds=2 * milliseconds))
    progress = log.snapshot()
    assert (progress.step, progress.total_steps, progress.stage) == (13, 100, "starting")
    assert progress.seconds_per_step == 0.5
    assert progress.rows_per_second == pytest.approx(9.6)
    assert progress.seconds_per_evaluation == pytest.approx(0.2)
    assert progress.seconds_per_checkpoint == pytest.approx(0.4)
    marks = progress.marks
    assert (marks.resumed_from_step, marks.resumed_from_attempt) == (10, 1)
    assert (marks.last_step, marks.checkpoint_step) == (13, 13)
    assert (marks.evaluation_milliseconds, marks.checkpoint_milliseconds) == (400, 800)


def test_a_resumed_attempt_has_its_checkpoint_from_the_start() -> None:
    log = a_log()
    log.apply(planned(step=10, attempt=1))
    assert log.marks.checkpoint_step == 10
    fresh = a_log()
    fresh.apply(planned())
    assert fresh.marks.checkpoint_step is None
    assert fresh.marks.resumed_from_attempt is None


def test_progress_and_metrics_are_served_before_anything_is_known() -> None:
    log, port = a_log(), free_port()
    with serving(f"127.0.0.1:{port}", progress_pages(log)):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/progress") as reply:
            progress = Progress.model_validate_json(reply.read())
        assert (progress.pod_uid, progress.attempt, progress.step) == ("pod-1", 2, 0)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/")
        log.apply(planned())
        log.apply(stepped(1, loss=0.75))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            samples = reply.read().decode().splitlines()
    assert "finetune_trainer_loss 0.75" in samples
    assert "finetune_trainer_step_duration_seconds 0.25" in samples
    assert not any(line.startswith("finetune_trainer_select_loss") for line in samples)


def test_metrics_name_the_newest_score() -> None:
    log = a_log()
    log.apply(planned())
    for step, score in ((1, 0.9), (2, 0.8)):
        log.apply(Evaluated(step=step, select_loss=score, milliseconds=1))
    assert b"finetune_trainer_select_loss 0.8\n" in render_metrics(log.snapshot)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:99999999", "127.0.0.1:http"])
def test_an_address_that_cannot_be_served_is_named(listen: str) -> None:
    with (
        pytest.raises(UsageError, match="FINETUNE_LISTEN"),
        serving(listen, progress_pages(a_log())),
    ):
        pass


def test_the_result_is_kept_for_the_last_word() -> None:
    log = a_log()
    result = TrainResult(steps=5, best_step=4, best_select_loss=0.3, checkpoint="checkpoints/1/4")
    log.apply(Finished(result=result))
    assert log.result == result


def test_the_log_tells_of_a_training_in_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    now = 100.0
    narration = Narration(a_log(), clock=lambda: now)
    narration.hear(planned(step=20, attempt=1))
    for step in range(21, 46):
        narration.hear(stepped(step))
        now += 1.0
    narration.hear(Evaluated(step=45, select_loss=0.25, milliseconds=1500))
    narration.hear(Saved(at=NOON, step=45, milliseconds=2100))
    result = TrainResult(steps=100, best_step=45, best_select_loss=0.25, checkpoint="c/1/45")
    narration.hear(Finished(result=result))
    narration.hear(Staged(stage="done"))
    pace = "loss 0.5, rate 0.0001, 0.25 s per step, 2,560 tokens/s"
    assert caplog.messages == [
        "training goes on from step 20 of 100, saved by attempt 1",
        f"step 21 of 100: {pace}",
        f"step 31 of 100: {pace}",
        f"step 41 of 100: {pace}",
        "step 45: loss on the select rows 0.25, scored in 1.5 s",
        "step 45: checkpoint saved in 2.1 s",
        "training ended at step 100: best loss on the select rows 0.25, at step 45",
    ]
