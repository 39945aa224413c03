"""How a running job is shown: a live table on a terminal, a line per change elsewhere.

``run`` calls ``show`` after every look and ``event`` for what is worth telling.
"""

import sys
from collections import deque
from contextlib import suppress
from datetime import datetime
from typing import Protocol, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finetune_api.job import FineTuneJob
from finetune_api.phases import TERMINAL, Phase
from finetune_api.status import JobStatus
from finetune_operator.core.decision import Event

_EVENTS_SHOWN = 6
_PERCENT_PER_LINE = 10
_COLORS = {
    Phase.PENDING: "yellow",
    Phase.SUSPENDED: "yellow",
    Phase.COMPLETE: "green",
    Phase.FAILED: "red",
}


class Screen(Protocol):
    """Where a job is shown while it runs."""

    def show(self, status: JobStatus) -> None:
        """Show the job as it is now."""

    def event(self, event: Event) -> None:
        """Tell something."""

    def close(self) -> None:
        """Give the terminal back."""


class SilentScreen:
    """Shows nothing; what the run ends with is printed all the same."""

    def show(self, status: JobStatus) -> None:
        """Show nothing."""

    def event(self, event: Event) -> None:
        """Tell nothing."""

    def close(self) -> None:
        """Have nothing to give back."""


class LineScreen:
    """One line for each event and each tenth of the training: for logs and pipes."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._shown: tuple[object, ...] = ()

    def show(self, status: JobStatus) -> None:
        """Write a line if the phase, the attempt or the tenth changed."""
        progress = status.progress
        tenth = 0
        if progress is not None and progress.total_steps:
            tenth = 100 * progress.step // progress.total_steps // _PERCENT_PER_LINE
        now = (status.phase, status.attempt, tenth)
        if now == self._shown:
            return
        self._shown = now
        self._line("  ".join(_facts(status)))

    def event(self, event: Event) -> None:
        """Write it as a line."""
        self._line(f"{event.reason}: {event.message}")

    def close(self) -> None:
        """Leave the lines as they are."""

    def _line(self, text: str) -> None:
        clock = datetime.now().astimezone().strftime("%H:%M:%S")
        # Whoever read this may be gone (a pipe, a terminal); the run goes on without.
        with suppress(OSError):
            self._out.write(f"{clock}  {' '.join(text.splitlines())}\n")
            self._out.flush()


class LiveScreen:
    """A table that is drawn anew in its place."""

    def __init__(self, job: FineTuneJob, console: Console) -> None:
        self._job = job
        self._events: deque[tuple[str, Event]] = deque(maxlen=_EVENTS_SHOWN)
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._live.start()

    def show(self, status: JobStatus) -> None:
        """Draw it."""
        self._live.update(render(self._job, status, tuple(self._events)))

    def event(self, event: Event) -> None:
        """Keep it for the next drawing."""
        self._events.append((datetime.now().astimezone().strftime("%H:%M:%S"), event))

    def close(self) -> None:
        """Leave the last drawing and give the cursor back."""
        with suppress(OSError):
            self._live.stop()


def render(
    job: FineTuneJob, status: JobStatus, events: tuple[tuple[str, Event], ...]
) -> RenderableType:
    """The table: where the job is, when it is done, what it costs, and what happened last."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right", no_wrap=True)
    grid.add_column()
    phase = Text(str(status.phase), style=_COLORS.get(status.phase, "cyan"))
    if status.reason:
        phase.append(f"  {status.reason}", style="dim")
    grid.add_row("job", Text(job.metadata.name, style="bold"))
    grid.add_row("phase", phase)
    grid.add_row("attempt", _attempt(status))
    progress = status.progress
    if progress is not None and progress.total_steps:
        bar = ProgressBar(total=progress.total_steps, completed=progress.step, width=40)
        grid.add_row("progress", bar)
        grid.add_row("", f"step {progress.step}/{progress.total_steps}  {progress.percent}")
        grid.add_row("loss", "–" if progress.loss is None else f"{progress.loss:.4f}")
        grid.add_row("ETA", progress.eta or "–")
    grid.add_row("cost", _cost(job, status))
    if status.message:
        grid.add_row("message", Text(status.message.splitlines()[0]))
    told = Table.grid(padding=(0, 2))
    for clock, event in events:
        style = "red" if event.kind == "Warning" else "dim"
        line = event.message.splitlines()[0] if event.message else ""
        told.add_row(Text(clock, style="dim"), Text(event.reason, style=style), Text(line))
    return Group(grid, Text(""), told)


def _attempt(status: JobStatus) -> str:
    if not status.attempts:
        return "–"
    row = status.attempts[-1]
    return f"{row.number} ({row.step}, {row.state.lower()})"


def _cost(job: FineTuneJob, status: JobStatus) -> str:
    if status.cost is None:
        return "–"
    limit = job.spec.budget.max_cost
    text = status.cost.display
    if limit is not None:
        text += f"  of {limit} {job.spec.budget.currency}"
    if status.cost.projected is not None and status.phase not in TERMINAL:
        text += f"  (at completion {status.cost.projected})"
    return text


def _facts(status: JobStatus) -> list[str]:
    facts = [str(status.phase)]
    if status.attempts:
        facts.append(f"attempt {_attempt(status)}")
    progress = status.progress
    if progress is not None and progress.total_steps:
        facts.append(f"step {progress.step}/{progress.total_steps} {progress.percent}")
        if progress.loss is not None:
            facts.append(f"loss {progress.loss:.4f}")
        if progress.eta:
            facts.append(f"ETA {progress.eta}")
    if status.cost is not None:
        facts.append(f"cost {status.cost.display}")
    return facts
