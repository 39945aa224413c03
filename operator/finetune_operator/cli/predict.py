"""``finetune predict``: a finished model on rows, by the trainer's own command. Called by ``main``.

This side has no torch: the trainer runs in a process of its own, as it does for a job.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from finetune_operator.local.engine import TRAINER


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of which model."""

    model: Path
    rows: Path
    answers: Path
    column: str | None = None
    max_new_tokens: int | None = None


def predict(question: Question) -> int:
    """Answer every row; returns the trainer's exit code, 65 where some rows could not be read."""
    told = ["predict", str(question.model)]
    told += ["--input", str(question.rows), "--output", str(question.answers)]
    if question.column is not None:
        told += ["--column", question.column]
    if question.max_new_tokens is not None:
        told += ["--max-new-tokens", str(question.max_new_tokens)]
    return subprocess.run([*TRAINER, *told], check=False).returncode
