"""How predictions are laid out for Parquet. Used by each task's evidence."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from finetune_trainer.evaluation.findings import TestRows
from finetune_trainer.evaluation.metrics import Floats, Integers


def of_rows(test: TestRows, columns: Mapping[str, pa.Array], *, kept: Sequence[str]) -> pa.Table:
    """A line per test row: its id, the given columns, its groups, and what it ``kept`` of itself.

    ``group`` is that of ``dataset.columns.group``, ``groups.NAME`` those of ``evaluation.groups``.

    The input itself is left out where the manifest says so: it may be people's.
    """
    whole = {"row_id": pa.array(test.ids, pa.string()), **columns}
    if test.groups is not None:
        whole["group"] = pa.array(test.groups, pa.string())
    for name, groups in test.grouped.items():
        whole[f"groups.{name}"] = pa.array(groups, pa.string())
    if test.run.evaluation.keep_predictions:
        arrow = test.rows.with_format("arrow")[:]
        whole |= {name: arrow[name] for name in kept}
    return pa.table(whole)


def at_places(array: pa.Array, places: Integers, rows: int) -> pa.Array:
    """Lines of an array at some of the rows; null at the others."""
    source = np.full(rows, -1, dtype=np.int64)
    source[places] = np.arange(len(places))
    return array.take(pa.array(source, mask=source < 0))


def named(names: Sequence[str], classes: Integers) -> pa.Array:
    """Class numbers as their names."""
    return pa.array([names[index] for index in classes.tolist()], pa.string())


def vectors(values: Floats) -> pa.Array:
    """A list of as many numbers in each line."""
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float64).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
