"""A few test images as they came, encoded, kept beside the test rows.

``prepare`` writes them, and an export is proved with them: what a plain pipeline makes of a file is
then what this project made of it, decoding and resizing included.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune_trainer.data.image_rows import ImageRow
from finetune_trainer.data.rows import CleanRow

_FOLDER = "originals"
_NAMES = "rows.json"
_MOST = 16


def keep_originals(rows: Sequence[CleanRow[ImageRow, str]], folder: Path) -> None:
    """Write images of every size, the smallest and the largest among them, below ``folder``.

    Raises
    ------
    OSError
        If the disk fails.
    """
    kept = folder / _FOLDER
    kept.mkdir()
    order = np.argsort([row.input.width * row.input.height for row in rows], kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, _MOST).astype(np.int64))
    names = {rows[int(order[place])].id: f"{number:02d}" for number, place in enumerate(places)}
    by_id = {row.id: row for row in rows}
    for row_id, name in names.items():
        (kept / name).write_bytes(by_id[row_id].input.encoded())
    (kept / _NAMES).write_text(json.dumps(names), encoding="utf-8")


def read_originals(folder: Path) -> Mapping[str, bytes]:
    """The images that ``keep_originals`` wrote, by their rows' ids.

    Raises
    ------
    OSError
        If they are not there, or can't be read.
    """
    kept = folder / _FOLDER
    names = json.loads((kept / _NAMES).read_text(encoding="utf-8"))
    return {row_id: (kept / name).read_bytes() for row_id, name in names.items()}
