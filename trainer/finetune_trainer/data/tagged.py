"""Rows of words with a tag each: how they are read, and mended where nothing begins a span.

Used by the token-classification task. Whatever scheme the rows are tagged in, from here on it is
IOB2 (or plain tags): ``B-TYPE`` begins a span, ``I-TYPE`` goes on with it, ``O`` is outside.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finetune_api.dataset import Columns, Dataset, TagScheme
from finetune_trainer.data.cleaning import NO_TAGS, NO_TEXT, TAG_SEQUENCE
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.data.text_likeness import TextLikeness
from finetune_trainer.data.values import Values, kind_of, name_in, text_in
from finetune_trainer.errors import DataError

OUTSIDE = "O"
BEGIN, INSIDE = "B-", "I-"

_FORMS = {
    TagScheme.IOB2: (re.compile(r"O|[BI]-.+"), "O, B-TYPE or I-TYPE"),
    TagScheme.IOB1: (re.compile(r"O|[BI]-.+"), "O, B-TYPE or I-TYPE"),
    TagScheme.BIOES: (re.compile(r"O|[BIESLU]-.+"), "O, or a TYPE after B-, I-, E-, S-, L- or U-"),
    TagScheme.PLAIN: (re.compile(r"(?![BI]-).+"), "a plain tag: B- and I- mark spans"),
}
_OF_BIOES = {"S": "B", "U": "B", "E": "I", "L": "I"}

Words = tuple[str, ...]
Tags = tuple[str, ...]


@dataclass(frozen=True)
class TagRows:
    """Words and their tags; ``names`` are what numbers stand for."""

    scheme: TagScheme
    names: tuple[str, ...] = ()

    fewest_classes = 2
    holds_text = True
    faults: Sequence[str] = (NO_TEXT,)
    holds_markup = False
    no_target = NO_TAGS
    has_one_target = True

    @classmethod
    def of(cls, dataset: Dataset) -> "TagRows":
        """As a manifest says that they are tagged."""
        return cls(dataset.tag_scheme or TagScheme.IOB2, dataset.labels)

    @property
    def mending(self) -> str | None:
        """Spans that begin with an I- tag."""
        return None if self.scheme is TagScheme.PLAIN else TAG_SEQUENCE

    def columns(self, columns: Columns) -> Mapping[str, str]:
        """Words and tags."""
        return {"tokens": columns.tokens or "tokens", "tags": columns.tags or "tags"}

    def read(self, values: Values, columns: Columns, where: str) -> tuple[Words, Tags | None]:
        """Read words and tags, as many of the one as of the other.

        Raises
        ------
        DataError
            If a column holds something else, the lengths differ, or a tag is none of the scheme.
        """
        named = self.columns(columns)
        words = words_in(values, named["tokens"], where)
        if values.get(named["tags"]) is None:
            return words, None
        listed = _list_in(values, named["tags"], where)
        if len(listed) != len(words):
            raise DataError(
                f"{where}: {len(words)} words in column {named['tokens']!r} and {len(listed)} tags "
                f"in column {named['tags']!r}; write a tag for each word"
            )
        tags = [
            self._tag(one, named["tags"], f"{where}: tag {number}")
            for number, one in enumerate(listed, start=1)
        ]
        return words, as_iob2(tags, self.scheme)

    def _tag(self, value: object, column: str, where: str) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < len(self.names):
                raise DataError(
                    f"{where}: the number {value}, and dataset.labels names {len(self.names)} "
                    "tags, counted from 0; name them all there, in their order"
                )
            value = self.names[value]
        tag = name_in({column: value}, column, where)
        form, told = _FORMS[self.scheme]
        if not form.fullmatch(tag):
            raise DataError(
                f"{where}: is not {told}; mend it, or set dataset.tagScheme (plain where tags mark "
                "no spans)"
            )
        return tag

    def fault_of(self, given: Words) -> str | None:
        """Why it can't be learned from."""
        return None if self.text_of(given).strip() else NO_TEXT

    def text_of(self, given: Words) -> str:
        """The words with a space between them."""
        return " ".join(given)

    def prose_of(self, given: Words) -> str:
        """The same."""
        return self.text_of(given)

    def likeness(self, rows: Sequence[AnyCleanRow]) -> TextLikeness:
        """By the words."""
        return TextLikeness([row.words for row in rows])

    def with_texts(self, given: Words, change: Callable[[str], str]) -> Words:
        """The words, each changed: there remain as many."""
        return tuple(change(word) for word in given)

    def mended(self, target: Tags) -> Tags:
        """Let each span begin with B-, also where an I- tag stands after nothing of its type."""
        return target if self.scheme is TagScheme.PLAIN else as_iob2(target, TagScheme.IOB1)

    def classes_of(self, target: Tags) -> tuple[str, ...]:
        """Each of its tags."""
        return tuple(sorted(set(target)))

    def needed(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Every type; whether some span of it is longer than one word does not matter."""
        if self.scheme is TagScheme.PLAIN:
            return classes
        return tuple(one for one in classes if one.startswith(BEGIN))

    def measured(self, targets: Sequence[Tags]) -> None:  # noqa: ARG002 - as the form has it
        """Tags are no numbers."""
        return

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """One output per tag."""
        return classes


def is_iob2(tag: str) -> bool:
    """Whether a tag has the form of one that marks spans."""
    return _FORMS[TagScheme.IOB2][0].fullmatch(tag) is not None


def words_in(values: Values, column: str, where: str) -> Words:
    """The column's words; none where it is unset.

    Raises
    ------
    DataError
        If it holds something else than a list of texts, or too much.
    """
    if values.get(column) is None:
        return ()
    words = []
    for number, word in enumerate(_list_in(values, column, where), start=1):
        if not isinstance(word, str):
            raise DataError(
                f"{where}: word {number} of column {column!r} is {kind_of(word)}, not text; write "
                "it as a string"
            )
        words.append(word)
    # As one text, it is held to what a text is held to.
    text_in({column: " ".join(words)}, column, where)
    return tuple(words)


def as_iob2(tags: Sequence[str], scheme: TagScheme) -> Tags:
    """Tags of a scheme in IOB2; those of IOB2 itself and plain ones stay as they are.

    In IOB1 a span begins with I-, and with B- only where it follows another one of its type
    (Ramshaw and Marcus 1995). E-, L- end a span in BIOES and BILOU, and S-, U- are one.
    """
    if scheme is TagScheme.BIOES:
        return tuple(_OF_BIOES.get(tag[0], tag[0]) + tag[1:] for tag in tags)
    if scheme is not TagScheme.IOB1:
        return tuple(tags)
    made, before = [], OUTSIDE
    for tag in tags:
        begins = tag.startswith(INSIDE) and before[len(BEGIN) :] != tag[len(INSIDE) :]
        made.append(BEGIN + tag[len(INSIDE) :] if begins else tag)
        before = tag
    return tuple(made)


def _list_in(values: Values, column: str, where: str) -> list[object]:
    value = values.get(column)
    if not isinstance(value, list):
        held = "text" if isinstance(value, str) else kind_of(value)
        raise DataError(
            f"{where}: column {column!r} holds {held}, not a list; write a list with an entry for "
            "each word, as jsonl, parquet or conll"
        )
    return value
