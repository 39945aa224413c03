"""From a row to the numbers that a model reads: an example of token ids and a target.

Each task has an encoder; ``tokenizing`` writes down what it makes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from finetune_trainer.data.rows import CleanRow

I = TypeVar("I")  # noqa: E741  # the input, as in rows
T = TypeVar("T")
Column = Any
"""A value or a kind of value of `datasets`, which has no types."""

_TOKEN_TYPES = "token_type_ids"  # noqa: S105 - a column's name


@dataclass(frozen=True, kw_only=True)
class EncodedRow:
    """A row as the model reads it.

    ``tokens`` is its length before any cut, special tokens included; ``is_cut`` says that not all
    of it is in the example; ``learned`` counts the tokens that are learned, where others are only
    read; ``unread`` the tagged words that are not in the example.
    """

    example: Mapping[str, Column]
    tokens: int
    is_cut: bool
    learned: int | None = None
    unread: int | None = None


class Encoder(Protocol[I, T]):
    """Turns rows into columns of numbers."""

    @property
    def features(self) -> Mapping[str, Column]:
        """The columns of an example and their kinds."""

    @property
    def kept_features(self) -> Mapping[str, Column]:
        """The columns of a test row that are kept beside them, for baselines and for people."""

    def encode(self, rows: Sequence[CleanRow[I, T]]) -> Iterator[EncodedRow]:
        """Encode rows, in their order."""

    def kept(self, row: CleanRow[I, T]) -> Mapping[str, Column]:
        """A test row's values for ``kept_features``."""


def token_features(tokenizer: PreTrainedTokenizerBase) -> dict[str, Column]:
    """The columns that a tokenizer makes, and their kinds."""
    from datasets import List, Value

    columns = {"input_ids": List(Value("int32")), "attention_mask": List(Value("int8"))}
    if _TOKEN_TYPES in tokenizer.model_input_names:
        columns[_TOKEN_TYPES] = List(Value("int8"))
    return columns


def encode_texts(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[EncodedRow]:
    """Encode whole texts, and those that are too long again, cut."""
    names = list(token_features(tokenizer))
    whole = tokenizer(list(texts), return_attention_mask=True, truncation=False, verbose=False)
    for place, ids in enumerate(whole["input_ids"]):
        example = {name: whole[name][place] for name in names}
        if len(ids) > max_length:
            cut = tokenizer(
                texts[place], return_attention_mask=True, truncation=True, max_length=max_length
            )
            example = {name: cut[name] for name in names}
        yield EncodedRow(example=example, tokens=len(ids), is_cut=len(ids) > max_length)
