"""`finetune-trainer predict`: rows in, answers out, line for line. ``__main__`` calls ``main``.

Memory holds one window of rows, in which they are sorted by length. A row that can't be read is
named by its line number, gets its error for an answer, and stops nothing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from finetune_api.report import ExitCode
from finetune_trainer.data.readers import what_there_is
from finetune_trainer.data.values import name_in
from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.evaluation.inference import batches_by_length
from finetune_trainer.prediction.answers import Answer, Answerer, Asked, answerer_for
from finetune_trainer.prediction.files import check_files, is_standard_output, opened, written
from finetune_trainer.prediction.lines import Line, read_windows

_NAMED_ERRORS = 20


def main(arguments: Sequence[str]) -> int:
    """Answer every row; the exit code says whether each had one.

    Raises
    ------
    UsageError
        If the model or the files are not usable.
    StorageError
        If the answers can't be written.
    """
    parser = argparse.ArgumentParser(
        prog="finetune-trainer predict",
        description="Run a finished model on rows: what `finetune predict` starts, and explains.",
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--column")
    parser.add_argument("--max-new-tokens", type=int)
    told = parser.parse_args(arguments)
    check_files(told.input, told.output)
    answerer = answerer_for(told.model, told.column, told.max_new_tokens)
    rows, errors = predict(answerer, told.input, told.output)
    say = sys.stderr if is_standard_output(told.output) else sys.stdout
    say.write(f"predict: {rows} rows, {errors} with errors: {told.output}\n")
    return ExitCode.DATA if errors else ExitCode.DONE


def predict(answerer: Answerer, source: Path, target: Path) -> tuple[int, int]:
    """Write an answer for each row, in their order; how many there were, and how many errors.

    Raises
    ------
    StorageError
        If one of the files can't be read or written.
    """
    rows = errors = 0
    try:
        with opened(source) as given, written(target) as file:
            for window in read_windows(given):
                rows += len(window)
                errors += _answer_window(answerer, window, file, named=errors)
    except OSError as error:
        where = source if error.filename == str(source) else target
        raise StorageError(f"{where}: can't be read or written ({error.strerror})") from error
    return rows, errors


def _answer_window(answerer: Answerer, window: Sequence[Line], file: TextIO, *, named: int) -> int:
    """Write the answers of a window; how many of them are errors."""
    answers: dict[int, Answer] = {}
    asked: list[tuple[int, Asked]] = []
    for line in window:
        one = _asked(answerer, line)
        if isinstance(one, Asked):
            asked.append((line.number, one))
            continue
        answers[line.number] = {"error": one}
        if named + len(answers) <= _NAMED_ERRORS:
            sys.stderr.write(f"{one}\n")
    failed = len(answers)
    lengths = np.asarray([one.length for _, one in asked], dtype=np.int64)
    for places in batches_by_length(lengths):
        batch = [asked[place] for place in places.tolist()]
        told = answerer.answer([one for _, one in batch])
        for (number, one), answer in zip(batch, told, strict=True):
            answers[number] = {**answer, **({"cut": True} if one.is_cut else {})}
    for line in window:
        made = {"line": line.number, **_id_of(line), **answers[line.number]}
        file.write(json.dumps(made, ensure_ascii=False) + "\n")
    return failed


def _asked(answerer: Answerer, line: Line) -> Asked | str:
    """What the model reads of a line, or what is wrong with it."""
    if line.error is not None:
        return line.error
    if answerer.column not in line.values:
        there = what_there_is(answerer.column, list(line.values))
        return f"{line.where}: no column {answerer.column!r} (--column); {there}"
    try:
        return answerer.read(line.values, line.where)
    except DataError as error:
        return str(error)


def _id_of(line: Line) -> Answer:
    """The row's own name, where it has a short one."""
    try:
        name = name_in(line.values, "id", line.where)
    except DataError:
        return {}
    return {"id": name} if name else {}
