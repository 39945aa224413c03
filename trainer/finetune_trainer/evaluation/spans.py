"""Spans of tagged words, as seqeval and CoNLL's own script find them. Pure.

A span is found exactly if its first word, its last word and its type are right (Tjong Kim Sang and
De Meulder 2003). What a model tells is read in seqeval's default mode, not in its strict one: an I-
tag that goes on with nothing of its type begins a span, as ``conlleval`` has it.
"""

from collections.abc import Callable, Sequence

from finetune_api.dataset import TagScheme
from finetune_trainer.data.tagged import BEGIN, OUTSIDE, as_iob2, is_iob2

Told = Sequence[str | None]
"""A tag for each word; None for a word of which nothing is told."""

Span = tuple[int, int, str]
"""First word, the word after the last one, and the type."""

Finding = Callable[[Told], set[Span]]


def spans_of_iob2(tags: Told) -> set[Span]:
    """The spans of IOB2 tags; a word of which nothing is told is outside."""
    spans: set[Span] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*as_iob2(_told(tags), TagScheme.IOB1), OUTSIDE]):
        if kind and (tag == OUTSIDE or tag.startswith(BEGIN)):
            spans.add((start, place, kind))
            kind = ""
        if tag.startswith(BEGIN):
            start, kind = place, tag[len(BEGIN) :]
    return spans


def spans_of_plain(tags: Told) -> set[Span]:
    """Each word by itself, with its tag for a type."""
    return {(place, place + 1, tag) for place, tag in enumerate(tags) if tag is not None}


def _told(tags: Told) -> list[str]:
    return [OUTSIDE if tag is None else tag for tag in tags]


def finding_for(tags: Sequence[str]) -> Finding:
    """How spans are found where all tags are these: the data set is in IOB2, or in plain tags."""
    return spans_of_iob2 if all(is_iob2(tag) for tag in tags) else spans_of_plain
