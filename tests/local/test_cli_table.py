"""What the terminal shows of a running job: a line per change, or a table of the whole."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from finetune_api.phases import Phase
from finetune_api.report import Step
from finetune_api.status import AttemptStatus, CostStatus, JobStatus, ProgressStatus
from finetune_operator.cli.table import LineScreen, render
from finetune_operator.core.decision import Event
from harness.scripted import a_job

COST = CostStatus(
    currency="USD",
    spent="0.12",
    projected="0.31",
    wasted="0",
    gpu_hours="0",
    rank_hours="0.5",
    unpriced_hours="0",
    display="$0.12",
)


def a_status(step: int = 40, **update: Any) -> JobStatus:
    progress = ProgressStatus(step=step, total_steps=100, percent=f"{step}%", eta="2m", loss=0.25)
    row = AttemptStatus(number=2, step=Step.TRAIN, state="Running")
    return JobStatus(
        **{
            "phase": Phase.TRAINING,
            "attempt": 2,
            "attempts": (row,),
            "progress": progress,
            "cost": COST,
            **update,
        }
    )


def test_a_line_is_written_only_when_something_changed() -> None:
    out = io.StringIO()
    screen = LineScreen(out)
    for step in (40, 41, 42, 49):
        screen.show(a_status(step))
    assert len(out.getvalue().splitlines()) == 1
    screen.show(a_status(50))
    screen.show(a_status(50, phase=Phase.EVALUATING))
    assert len(out.getvalue().splitlines()) == 3


def test_a_line_says_where_the_job_is_when_it_is_done_and_what_it_costs() -> None:
    out = io.StringIO()
    LineScreen(out).show(a_status())
    for fact in ("Training", "attempt 2 (train", "step 40/100", "loss 0.2500", "ETA 2m", "$0.12"):
        assert fact in out.getvalue()


def test_an_event_of_many_lines_stays_one_line() -> None:
    out = io.StringIO()
    LineScreen(out).event(Event(kind="Warning", reason="Unknown", message="a\nb\nc"))
    assert out.getvalue().endswith("Unknown: a b c\n")
    assert len(out.getvalue().splitlines()) == 1


def test_a_reader_that_is_gone_does_not_end_the_run() -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    LineScreen(Closed()).show(a_status())


def drawn(status: JobStatus, *events: tuple[str, Event]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(a_job(budget={"maxCost": "5"}), status, events))
    return console.export_text()


def test_the_table_shows_progress_cost_against_the_budget_and_events() -> None:
    event = Event(kind="Warning", reason="Unknown", message="Worker 1 was ended by signal 9.")
    text = drawn(a_status(message="Attempt 2: train."), ("12:00:00", event))
    for fact in (
        "reviews",
        "Training",
        "2 (train, running)",
        "step 40/100",
        "0.2500",
        "2m",
        "$0.12  of 5 USD  (at completion 0.31)",
        "Attempt 2: train.",
        "Worker 1 was ended by signal 9.",
    ):
        assert fact in text


def test_what_people_wrote_is_shown_as_text_not_as_markup() -> None:
    event = Event(kind="Normal", reason="Prepared", message="[red]label[/red]")
    assert "[red]label[/red]" in drawn(a_status(), ("12:00:00", event))


def test_nothing_is_forecast_once_the_job_is_over() -> None:
    assert "at completion" not in drawn(a_status(phase=Phase.COMPLETE))
