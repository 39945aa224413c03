"""Turns rows into token ids and writes them to disk for the other steps. Used by ``prepare``.

A set is a `datasets.Dataset` on disk, which ranks map into memory: `row_id`, `input_ids`,
`attention_mask`, `token_type_ids` where the tokenizer makes them, `label` (the class's number),
`group` (unset without a group column); the test set also keeps `text`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from finetune_api.report import TokenStatistics
from finetune_trainer.data.rows import CleanRow

_BATCH_ROWS = 512
_EXAMPLES = 10
_TOKEN_TYPES = "token_type_ids"  # noqa: S105 - a column's name


@dataclass(frozen=True, kw_only=True)
class TokenLengths:
    """Lengths in tokens before the cut, row by row, special tokens included."""

    lengths: NDArray[np.int64]
    ids: tuple[str, ...]

    def statistics(self, max_length: int) -> TokenStatistics:
        """Sum them up; rows longer than ``max_length`` are the ones that were cut."""
        cut = np.flatnonzero(self.lengths > max_length)
        return TokenStatistics(
            sum=int(self.lengths.sum()),
            min=int(self.lengths.min()),
            max=int(self.lengths.max()),
            mean=float(self.lengths.mean()),
            median=float(np.median(self.lengths)),
            p95=float(np.quantile(self.lengths, 0.95)),
            truncated_rows=len(cut),
            truncated_examples=tuple(self.ids[place] for place in cut[:_EXAMPLES]),
        )


def write_tokenized(
    rows: Sequence[CleanRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    classes: Sequence[str],
    max_length: int,
    folder: Path,
    keep_text: bool,
) -> TokenLengths:
    """Tokenize ``rows`` in their order and save them to ``folder``, which must not exist.

    Raises
    ------
    OSError
        If the disk fails.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    lengths: list[int] = []
    numbers = {label: number for number, label in enumerate(classes)}

    def generate() -> Iterator[dict[str, Any]]:
        lengths.clear()
        for start in range(0, len(rows), _BATCH_ROWS):
            batch = rows[start : start + _BATCH_ROWS]
            encoded = _encode([row.text for row in batch], tokenizer, max_length, lengths)
            for place, row in enumerate(batch):
                made: dict[str, Any] = {name: column[place] for name, column in encoded.items()}
                made |= {"row_id": row.id, "label": numbers[row.label], "group": row.group}
                yield made | ({"text": row.text} if keep_text else {})

    scratch = folder.with_name(f"{folder.name}.scratch")
    try:
        made = Dataset.from_generator(
            generate,
            features=_features(tokenizer, keep_text=keep_text),
            cache_dir=str(scratch),
            # Rows are new each time; hashing them all to find them in a cache is for nothing.
            fingerprint=folder.name,
        )
    except DatasetGenerationError as error:
        # It stands for whatever happened meanwhile; a full disk must stay one.
        raise error.__cause__ or error from error
    made.save_to_disk(str(folder))
    return TokenLengths(
        lengths=np.asarray(lengths, dtype=np.int64), ids=tuple(row.id for row in rows)
    )


def _features(tokenizer: PreTrainedTokenizerBase, *, keep_text: bool) -> Any:  # of datasets
    from datasets import Features, List, Value

    columns = {
        "row_id": Value("string"),
        "input_ids": List(Value("int32")),
        "attention_mask": List(Value("int8")),
        "label": Value("int64"),
        "group": Value("string"),
    }
    if _TOKEN_TYPES in tokenizer.model_input_names:
        columns[_TOKEN_TYPES] = List(Value("int8"))
    if keep_text:
        columns["text"] = Value("string")
    return Features(columns)


def _encode(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    lengths: list[int],
) -> Mapping[str, list[list[int]]]:
    """Encode whole texts, note their lengths, and encode those that are too long again, cut."""
    names = ["input_ids", "attention_mask"]
    if _TOKEN_TYPES in tokenizer.model_input_names:
        names.append(_TOKEN_TYPES)
    whole = tokenizer(texts, return_attention_mask=True, truncation=False, verbose=False)
    columns: dict[str, list[list[int]]] = {name: list(whole[name]) for name in names}
    for place, ids in enumerate(whole["input_ids"]):
        lengths.append(len(ids))
        if len(ids) > max_length:
            cut = tokenizer(
                texts[place], return_attention_mask=True, truncation=True, max_length=max_length
            )
            for name in names:
                columns[name][place] = cut[name]
    return columns
