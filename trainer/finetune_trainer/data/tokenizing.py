"""Turns rows into token ids and writes them to disk for the other steps. Used by ``prepare``.

A set is a `datasets.Dataset` on disk, which ranks map into memory: `row_id`, `group` (unset without
a group column), what the task's encoder makes (`input_ids`, `attention_mask`, `label`, …), and in
the test set what it keeps of the input and the row's `groups`, in the order of `evaluation.groups`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune_api.datareport import TokenStatistics
from finetune_trainer.data.encoding import Encoder
from finetune_trainer.data.form import AnyCleanRow

_BATCH_ROWS = 512
_EXAMPLES = 10


@dataclass(frozen=True, kw_only=True)
class TokenLengths:
    """Lengths in tokens before any cut, row by row, special tokens included.

    ``cut`` says of each row whether it was too long; ``learned`` counts the tokens that are
    learned, where others are only read; ``unread`` the tagged words that are in no example.
    """

    lengths: NDArray[np.int64]
    cut: NDArray[np.bool_]
    ids: tuple[str, ...]
    learned: int | None
    unread: int | None

    def statistics(self) -> TokenStatistics:
        """Sum them up."""
        cut = np.flatnonzero(self.cut)
        return TokenStatistics(
            sum=int(self.lengths.sum()),
            min=int(self.lengths.min()),
            max=int(self.lengths.max()),
            mean=float(self.lengths.mean()),
            median=float(np.median(self.lengths)),
            p95=float(np.quantile(self.lengths, 0.95)),
            truncated_rows=len(cut),
            truncated_examples=tuple(self.ids[place] for place in cut[:_EXAMPLES]),
            learned=self.learned,
        )


def write_tokenized(
    rows: Sequence[AnyCleanRow],
    encoder: Encoder[Any, Any],  # any task's
    *,
    folder: Path,
    keep_input: bool,
) -> TokenLengths:
    """Encode ``rows`` in their order and save them to ``folder``, which must not exist.

    Raises
    ------
    OSError
        If the disk fails.
    """
    from datasets import Dataset, Features, List, Value
    from datasets.exceptions import DatasetGenerationError

    columns = {"row_id": Value("string"), "group": Value("string"), **encoder.features}
    if keep_input:
        columns |= {"groups": List(Value("string")), **encoder.kept_features}
    lengths: list[int] = []
    cut: list[bool] = []
    learned: list[int] = []
    unread: list[int] = []

    def generate() -> Iterator[dict[str, Any]]:
        lengths.clear()
        cut.clear()
        learned.clear()
        unread.clear()
        for start in range(0, len(rows), _BATCH_ROWS):
            batch = rows[start : start + _BATCH_ROWS]
            for row, encoded in zip(batch, encoder.encode(batch), strict=True):
                lengths.append(encoded.tokens)
                cut.append(encoded.is_cut)
                if encoded.learned is not None:
                    learned.append(encoded.learned)
                if encoded.unread is not None:
                    unread.append(encoded.unread)
                own: dict[str, Any] = {"row_id": row.id, "group": row.group}
                own |= {"groups": row.groups, **encoder.kept(row)} if keep_input else {}
                yield {**own, **encoded.example}

    scratch = folder.with_name(f"{folder.name}.scratch")
    try:
        made = Dataset.from_generator(
            generate,
            features=Features(columns),
            cache_dir=str(scratch),
            # Rows are new each time; hashing them all to find them in a cache is for nothing.
            fingerprint=folder.name,
        )
    except DatasetGenerationError as error:
        # It stands for whatever happened meanwhile; a full disk must stay one.
        raise error.__cause__ or error from error
    made.save_to_disk(str(folder))
    return TokenLengths(
        lengths=np.asarray(lengths, dtype=np.int64),
        cut=np.asarray(cut, dtype=np.bool_),
        ids=tuple(row.id for row in rows),
        learned=sum(learned) if learned else None,
        unread=sum(unread) if unread else None,
    )
