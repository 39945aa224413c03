"""``finetune predict``: a finished model on rows, by the trainer's own command. Called by ``main``.

This side has no torch: the trainer takes this process's place, so that whoever stops the one stops
the other.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from finetune_operator.local.engine import TRAINER


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of which model."""

    model: Path
    rows: Path
    answers: Path
    column: str | None = None
    max_new_tokens: int | None = None


def predict(question: Question) -> NoReturn:
    """Answer every row; the exit code is the trainer's, 65 where some rows could not be read."""
    told = ["predict", str(question.model)]
    told += ["--input", str(question.rows), "--output", str(question.answers)]
    if question.column is not None:
        told += ["--column", question.column]
    if question.max_new_tokens is not None:
        told += ["--max-new-tokens", str(question.max_new_tokens)]
    os.execv(TRAINER[0], [*TRAINER, *told])  # noqa: S606 (no shell is wanted)
