"""``finetune run``: open the workspace, drive the job, and say what came of it.

Called by ``main``. Everything that can be wrong with what the person gave comes back as one
message and an exit code.
"""

import asyncio
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from finetune_api.job import FineTuneJob
from finetune_api.phases import TERMINAL, Phase, Reason
from finetune_api.report import ExitCode, FailureClass
from finetune_api.run import LAYOUT
from finetune_api.status import JobStatus
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.manifest import Manifest
from finetune_operator.cli.report import WORKSPACES, write_report
from finetune_operator.cli.table import LineScreen, LiveScreen, Screen, SilentScreen
from finetune_operator.core.decision import Decision, Event
from finetune_operator.engine import EngineError
from finetune_operator.local import machine
from finetune_operator.local.drive import drive
from finetune_operator.local.engine import LocalEngine, StorageError
from finetune_operator.local.resume import SourceChangedError, SpecChangedError, open_state
from finetune_operator.local.sources import SourceMissingError
from finetune_operator.local.workspace import State, Workspace, WorkspaceError

FAILED = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_BY_REASON: dict[str, int] = {
    FailureClass.USER_ERROR: ExitCode.USAGE,
    FailureClass.DATA_ERROR: ExitCode.DATA,
    FailureClass.STORAGE: ExitCode.STORAGE,
    Reason.INVALID_SPEC: ExitCode.USAGE,
    Reason.RATE_MISSING: ExitCode.USAGE,
    Reason.CURRENCY_MISMATCH: ExitCode.USAGE,
    Reason.BUDGET_TOO_SMALL: ExitCode.USAGE,
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line said besides the manifest."""

    workspace: Path | None = None
    smoke: bool = False
    output: str = "auto"


def run_job(manifest: Manifest, options: Options) -> int:
    """Take a job as far as it goes on this machine; returns the exit code.

    Raises
    ------
    CommandError
        For a workspace, a source or a manifest that can't be worked with.
    """
    workspace = Workspace(root=_root(manifest.job, options).absolute())
    base = manifest.path.parent.absolute()
    for folder in (base, workspace.root):
        _require_unicode(folder)
    try:
        with workspace.lock():
            state = open_state(
                workspace,
                manifest.job,
                manifest.rate_cards,
                base,
                smoke=options.smoke,
            )
            return asyncio.run(_run(workspace, state, options))
    except (WorkspaceError, StorageError) as error:
        raise CommandError(str(error), ExitCode.STORAGE) from error
    except OSError as error:
        where = error.filename or workspace.root
        raise CommandError(f"{where}: {error.strerror}", ExitCode.STORAGE) from error
    except (SourceMissingError, SourceChangedError) as error:
        raise CommandError(str(error), ExitCode.DATA) from error
    except SpecChangedError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except EngineError as error:
        raise CommandError(
            f"the run can't go on: {error}. What still runs saves and ends by itself; run the "
            "same command again to go on",
            ExitCode.INTERNAL,
        ) from error


def _require_unicode(folder: Path) -> None:
    """What is written down of a run is JSON, which has no other names."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise CommandError(
            f"{folder}: the folder's name is not UTF-8; rename it", ExitCode.USAGE
        ) from error


def _root(job: FineTuneJob, options: Options) -> Path:
    if options.workspace is not None:
        return options.workspace
    name = f"{job.metadata.name}-smoke" if options.smoke else job.metadata.name
    return WORKSPACES / name


async def _run(workspace: Workspace, state: State, options: Options) -> int:
    screen = _screen(state.job, options.output)
    engine = LocalEngine(
        workspace=workspace, state=state, facts=machine.facts(state.job), tell=screen.event
    )
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, _interrupt, engine, screen)
    try:
        decision = await drive(engine, lambda decision: screen.show(decision.status))
    finally:
        screen.close()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    write_report(workspace, engine.job)
    _conclude(workspace, engine.job, decision)
    return exit_code(decision.status)


def _interrupt(engine: LocalEngine, screen: Screen) -> None:
    again = engine.interrupted
    engine.interrupt()
    grace = engine.job.spec.policy.grace_period_seconds
    message = (
        "Stopping at once; work since the last checkpoint may be lost."
        if again
        else f"Saving, then stopping: up to {grace} s. Once more stops at once."
    )
    screen.event(Event(kind="Normal", reason=Reason.INTERRUPTED, message=message))


def _screen(job: FineTuneJob, output: str) -> Screen:
    console = Console()
    if output == "quiet":
        return SilentScreen()
    if output == "table" or (output == "auto" and console.is_terminal):
        return LiveScreen(job, console)
    return LineScreen()


def exit_code(status: JobStatus) -> int:
    """What the process ends with, from the status that the job rests in."""
    if status.phase is Phase.COMPLETE:
        return ExitCode.DONE
    if status.phase is Phase.SUSPENDED:
        return ExitCode.STOPPED
    reason = status.reason
    if reason == Reason.BACKOFF_LIMIT_EXCEEDED and status.attempts:
        reason = status.attempts[-1].reason
    return _BY_REASON.get(reason or "", FAILED)


def _conclude(workspace: Workspace, job: FineTuneJob, decision: Decision) -> None:
    """Say in a few lines what came of it, and where everything lies."""
    status = decision.status
    say = sys.stdout if exit_code(status) == ExitCode.DONE else sys.stderr
    lines = [f"{status.phase} ({status.reason}): {status.message or ''}".rstrip(" :")]
    if status.cost is not None:
        lines.append(f"  cost    {status.cost.display}")
    model = workspace.job_folder(job.metadata.uid) / LAYOUT.output_model
    if status.phase is Phase.COMPLETE and model.exists():
        lines.append(f"  model   {model}")
    lines.append(f"  page    {workspace.page}")
    lines.append(f"  status  {workspace.status_file}")
    over = status.phase in TERMINAL
    if over and job.spec.policy.ttl_seconds_after_finished is not None:
        lines.append("policy.ttlSecondsAfterFinished is a cluster's: a local run deletes nothing.")
    if status.reason == Reason.INTERRUPTED:
        lines.append("Run the same command again to go on.")
    if status.phase is Phase.FAILED:
        lines.append(f"  logs    {workspace.attempts}")
        lines.append("A job that is over stays so: begin anew with another --workspace.")
    # Also where the terminal is gone, the exit code is that of the job.
    with suppress(OSError):
        say.write("\n".join(lines) + "\n")
        say.flush()
