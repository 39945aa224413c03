"""What the evaluate step leaves in ``output/``: per-row predictions and the report.

Each file appears whole under its name or not at all. The report is written last: what it names is
there, and without it there is no evaluation.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from finetune_api.evaluationreport import EvaluationReport
from finetune_api.report import ReportRef
from finetune_api.run import LAYOUT
from finetune_trainer.environment import Workspace
from finetune_trainer.errors import StorageError
from finetune_trainer.models.export import export_is_whole
from finetune_trainer.training.manifest import sync


def keep_table(
    workspace: Workspace, table: pa.Table, place: PurePosixPath, *, discard: bool
) -> ReportRef | None:
    """Write a table as Parquet to its place in the workspace, or see to it that none is there.

    Raises
    ------
    StorageError
        If the workspace can't be written.
    """
    path = workspace.path(place)
    if discard:
        _remove(path)
        return None
    _replace(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    return ReportRef(path=str(place), digest=_digest(path))


def write_report(workspace: Workspace, report: EvaluationReport) -> ReportRef:
    """Write the report; with it, the evaluation exists.

    Raises
    ------
    StorageError
        If the workspace can't be written.
    """
    text = report.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"
    path = workspace.path(LAYOUT.evaluation_report)
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return ReportRef(path=str(LAYOUT.evaluation_report), digest=_digest(path))


def stored_report(workspace: Workspace, inputs_digest: str) -> ReportRef | None:
    """Find the report that an earlier attempt made of the same inputs, with all that it names.

    Raises
    ------
    StorageError
        If something is there and can't be read.
    """
    path = workspace.path(LAYOUT.evaluation_report)
    try:
        report = EvaluationReport.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    except OSError as error:
        raise StorageError(f"{path}: can't read the stored report ({error})") from error
    if report.inputs_digest != inputs_digest or not _is_whole(workspace, report):
        return None
    return ReportRef(path=str(LAYOUT.evaluation_report), digest=_digest(path))


def _is_whole(workspace: Workspace, report: EvaluationReport) -> bool:
    for table in (report.predictions, report.losses):
        if table is None:
            continue
        path = workspace.path(table.path)
        if not path.is_file() or _digest(path) != table.digest:
            return False
    if report.model is None:
        return not workspace.path(LAYOUT.output_model).exists()
    return export_is_whole(workspace.path(report.model.path), report.model.digest)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: can't remove it ({error})") from error


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: can't write it ({error})") from error


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise StorageError(f"{path}: can't read it ({error})") from error
