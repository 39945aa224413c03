"""The page of a job: what it is made from, gathered and written.

``run`` writes it at the end of every run; ``finetune report`` writes it anew, of a workspace or of
a job on a cluster.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.job import FineTuneJob
from finetune_api.phases import ConditionType
from finetune_api.report import ExitCode, ReportRef, Step
from finetune_api.run import LAYOUT
from finetune_api.status import JobStatus
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.page import PageFacts, write_page
from finetune_operator.core.conditions import is_true
from finetune_operator.cost.records import latest
from finetune_operator.local.reports import read_report
from finetune_operator.local.workspace import Workspace, WorkspaceError

WORKSPACES = Path(".finetune")
"""Where a run's workspace is made, unless the command line says otherwise."""


def write_report(workspace: Workspace, job: FineTuneJob) -> Path:
    """Write the page of a job as it stands; returns where it lies."""
    status = job.status or JobStatus()
    folder = workspace.job_folder(job.metadata.uid)
    facts = PageFacts(
        job=job,
        records=latest(workspace.read_records().values()),
        prepare=_prepared(folder, status),
        evaluation=_evaluated(folder, status),
    )
    write_page(workspace.page, facts)
    return workspace.page


def rewrite_report(root: Path | None) -> Path:
    """Write the page of a workspace that an earlier run left.

    Raises
    ------
    CommandError
        If there is no such workspace, or more than one to choose from.
    """
    workspace = Workspace(root=(root or _only_workspace()).absolute())
    try:
        state = workspace.read_state()
        if state is None:
            raise CommandError(
                f"{workspace.root}: not the workspace of a run: name the folder that "
                "`finetune run` worked in",
                ExitCode.USAGE,
            )
        return write_report(workspace, state.job)
    except (WorkspaceError, OSError) as error:
        raise CommandError(str(error), ExitCode.STORAGE) from error


def write_cluster_report(
    name: str, namespace: str | None, output: Path | None, warn: Callable[[str], None]
) -> Path:
    """Write the page of a job on a cluster, by default to NAME.html; returns where it lies.

    Raises
    ------
    CommandError
        If the job can't be read, or the file can't be written.
    """
    # A local run needs no Kubernetes client, whose import takes a while.
    from finetune_operator.cli.clusterfacts import cluster_facts

    path = (output or Path(f"{name}.html")).absolute()
    try:
        facts = cluster_facts(name, namespace, warn)
    except CommandError as error:
        own = WORKSPACES / name
        if not own.is_dir():
            raise
        hint = f"{error}; a run on this machine is shown by `finetune report {own}`"
        raise CommandError(hint, error.code) from error
    try:
        write_page(path, facts)
    except OSError as error:
        raise CommandError(
            f"{path}: can't be written ({error.strerror})", ExitCode.STORAGE
        ) from error
    return path


def _only_workspace() -> Path:
    found = sorted(path.parent for path in WORKSPACES.glob("*/state.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(
            f"no workspace in {WORKSPACES.absolute()}: name the folder of a run", ExitCode.USAGE
        )
    raise CommandError(
        f"several workspaces: name one of {', '.join(map(str, found))}", ExitCode.USAGE
    )


def _prepared(folder: Path, status: JobStatus) -> PrepareReport | None:
    if not is_true(status.conditions, ConditionType.PREPARED):
        return None
    try:
        return PrepareReport.model_validate_json((folder / LAYOUT.prepare_report).read_bytes())
    except (OSError, ValidationError):
        return None


def _evaluated(folder: Path, status: JobStatus) -> EvaluationReport | None:
    if status.evaluation is None:
        return None
    ref = ReportRef(path=status.evaluation.report, digest=status.evaluation.report_digest)
    stored = read_report(folder, Step.EVALUATE, ref)
    return stored.evaluation if stored else None
