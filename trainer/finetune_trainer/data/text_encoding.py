"""How rows of one text each become examples. Used by the tasks on whole texts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from transformers import PreTrainedTokenizerBase

from finetune_trainer.data.encoding import Column, EncodedRow, encode_texts, token_features
from finetune_trainer.data.rows import CleanRow

T = TypeVar("T")


@dataclass(frozen=True)
class TextEncoder(Generic[T]):
    """Encodes a text and what ``target`` makes of its row's target; test rows keep the text."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    target: Callable[[T], Column]
    kind: Column

    @property
    def features(self) -> Mapping[str, Column]:
        """Tokens and ``label``."""
        return {**token_features(self.tokenizer), "label": self.kind}

    @property
    def kept_features(self) -> Mapping[str, Column]:
        """The text."""
        from datasets import Value

        return {"text": Value("string")}

    def encode(self, rows: Sequence[CleanRow[str, T]]) -> Iterator[EncodedRow]:
        """Encode rows, one example each."""
        encoded = encode_texts([row.input for row in rows], self.tokenizer, self.max_length)
        for row, one in zip(rows, encoded, strict=True):
            label = self.target(row.target)
            yield replace(one, example={**one.example, "label": label})

    def kept(self, row: CleanRow[str, T]) -> Mapping[str, Column]:
        """The text."""
        return {"text": row.input}


def label_encoder(
    tokenizer: PreTrainedTokenizerBase, classes: tuple[str, ...], max_length: int
) -> TextEncoder[tuple[str, ...]]:
    """Encode labels as 1 for each that a row has, and 0 for each other."""
    from datasets import List, Value

    def target(labels: tuple[str, ...]) -> list[int]:
        return [int(label in labels) for label in classes]

    return TextEncoder(tokenizer, max_length, target, List(Value("int8")))


def number_encoder(
    tokenizer: PreTrainedTokenizerBase,
    classes: tuple[str, ...],  # noqa: ARG001 - as every task's encoder is called
    max_length: int,
) -> TextEncoder[float]:
    """Keep a number as it is."""
    from datasets import Value

    return TextEncoder(tokenizer, max_length, float, Value("float64"))


def class_encoder(
    tokenizer: PreTrainedTokenizerBase, classes: tuple[str, ...], max_length: int
) -> TextEncoder[str]:
    """Encode a class as its number."""
    from datasets import Value

    numbers = {label: number for number, label in enumerate(classes)}
    return TextEncoder(tokenizer, max_length, numbers.__getitem__, Value("int64"))
