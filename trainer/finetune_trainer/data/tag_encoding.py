"""How words with tags become examples: a word's first token has its tag, and no other has one.

Used by the token-classification task, and by those that ask what a model was given of a row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import BatchEncoding, PreTrainedTokenizerBase

from finetune_trainer.data.encoding import Column, EncodedRow, token_features
from finetune_trainer.data.rows import CleanRow
from finetune_trainer.data.tagged import Tags, Words
from finetune_trainer.training.rows import NO_TAG


@dataclass(frozen=True)
class EncodedWords:
    """Words as tokens: the columns of an example, and where each word that is read begins.

    ``words`` are the numbers of those words, ``places`` those of their first tokens; ``tokens`` is
    the length before the cut.
    """

    columns: Mapping[str, Sequence[int]]
    words: tuple[int, ...]
    places: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class TagEncoder:
    """Encodes words, and their tags as numbers; test rows keep all of both."""

    tokenizer: PreTrainedTokenizerBase
    tags: tuple[str, ...]
    max_length: int

    @property
    def features(self) -> Mapping[str, Column]:
        """Tokens, the tags of some, and how many have one."""
        from datasets import List, Value

        return {
            **token_features(self.tokenizer),
            "tags": List(Value("int16")),
            "weight": Value("float64"),
        }

    @property
    def kept_features(self) -> Mapping[str, Column]:
        """Words, their tags, and which of them the model reads."""
        from datasets import List, Value

        return {
            "words": List(Value("string")),
            "word_tags": List(Value("int16")),
            "words_read": List(Value("int32")),
        }

    def encode(self, rows: Sequence[CleanRow[Words, Tags]]) -> Iterator[EncodedRow]:
        """Encode rows, one example each."""
        numbers = {tag: number for number, tag in enumerate(self.tags)}
        encoded = encode_words([row.input for row in rows], self.tokenizer, self.max_length)
        for row, one in zip(rows, encoded, strict=True):
            length = len(one.columns["input_ids"])
            tags = [NO_TAG] * length
            for word, place in zip(one.words, one.places, strict=True):
                tags[place] = numbers[row.target[word]]
            yield EncodedRow(
                example={**one.columns, "tags": tags, "weight": float(len(one.words))},
                tokens=one.tokens,
                is_cut=one.tokens > length,
                learned=len(one.words),
                unread=len(row.input) - len(one.words),
            )

    def kept(self, row: CleanRow[Words, Tags]) -> Mapping[str, Column]:
        """Words, tags, and which words are read."""
        (one,) = encode_words([row.input], self.tokenizer, self.max_length)
        return {
            "words": row.input,
            "word_tags": [self.tags.index(tag) for tag in row.target],
            "words_read": one.words,
        }


def encode_words(
    rows: Sequence[Words], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Iterator[EncodedWords]:
    """Encode rows of words; of those that are too long the end is cut."""
    whole = _encoded(rows, tokenizer, None)
    for number, words in enumerate(rows):
        tokens = len(whole["input_ids"][number])
        source, line = whole, number
        if tokens > max_length:
            source, line = _encoded([words], tokenizer, max_length), 0
        places: dict[int, int] = {}
        for place, word in enumerate(source.word_ids(line)):
            if word is not None:
                places.setdefault(word, place)
        yield EncodedWords(
            columns={name: source[name][line] for name in token_features(tokenizer)},
            words=tuple(places),
            places=tuple(places.values()),
            tokens=tokens,
        )


def _encoded(
    rows: Sequence[Words], tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> BatchEncoding:
    encoded: BatchEncoding = tokenizer(
        [list(words) for words in rows],
        is_split_into_words=True,
        return_attention_mask=True,
        truncation=max_length is not None,
        max_length=max_length,
        verbose=False,
    )
    return encoded
