"""Full reports that a trainer left in the workspace: read only if their digest is right."""

import hashlib
from pathlib import Path

from pydantic import ValidationError

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.report import ReportRef, Step
from finetune_operator.core.observed import StoredReport

_LIMIT_BYTES = 64 * 1024 * 1024


def read_report(job_folder: Path, step: Step, ref: ReportRef) -> StoredReport | None:
    """The report that a termination message points at; None if it is not there as it says."""
    content = _content(job_folder, ref.path)
    if content is None or f"sha256:{hashlib.sha256(content).hexdigest()}" != ref.digest:
        return None
    try:
        if step is Step.PREPARE:
            return StoredReport(ref=ref, prepare=PrepareReport.model_validate_json(content))
        return StoredReport(ref=ref, evaluation=EvaluationReport.model_validate_json(content))
    except ValidationError:
        return None


def _content(job_folder: Path, name: str) -> bytes | None:
    """The bytes of a file that lies in the job's folder; None where a path leads out of it."""
    path = (job_folder / name).resolve()
    if not path.is_relative_to(job_folder.resolve()):
        return None
    try:
        return path.read_bytes() if path.stat().st_size <= _LIMIT_BYTES else None
    except OSError:
        return None
