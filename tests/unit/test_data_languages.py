"""Which language a row is in, and which rows are in another one than most."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_trainer.data.cleaning import OFF_LANGUAGE, Counts
from finetune_trainer.data.language_counts import count_languages, note_off_language
from finetune_trainer.data.languages import NO_LANGUAGE, READ_CHARACTERS, UNDECIDED, language_of
from finetune_trainer.data.rows import CleanRow, input_key
from finetune_trainer.data.splitting import Role, Roles

ENGLISH = "This film is a delight from its beginning to its very end."
GERMAN = "Dieser Film ist von Anfang bis Ende ein großes Vergnügen."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (ENGLISH.upper(), "en"),
        (GERMAN, "de"),
        ("Ce film est un vrai plaisir du début jusqu'à la fin.", "fr"),
        ("Этот фильм доставляет удовольствие от начала до конца.", "ru"),
        ("この映画は最初から最後まで本当に楽しい作品です。", "ja"),
    ],
)
def test_a_sentence_tells_its_language(text: str, code: str) -> None:
    assert language_of(text) == code


@pytest.mark.parametrize("text", ["", "great", "Berlin", ":-)", "ok thanks", "die hard", "\ud800"])
def test_a_few_words_tell_none(text: str) -> None:
    assert language_of(text) in {UNDECIDED, NO_LANGUAGE}


def test_of_a_long_text_the_beginning_is_read() -> None:
    begin = f"{ENGLISH} " * (1 + READ_CHARACTERS // len(ENGLISH))
    assert language_of(begin + GERMAN * 1_000) == "en"


def rows_in(role: Role, **languages: int) -> list[CleanRow[str, str]]:
    one = CleanRow(id="", input="", target="a", classes=("a",), group=None, key=input_key(""))
    return [
        replace(one, id=f"{role}-{language}-{number}", language=language)
        for language, count in languages.items()
        for number in range(count)
    ]


def off_language(*, test: dict[str, int], train: dict[str, int]) -> tuple[Roles, Counts, Counts]:
    roles = Roles(
        train=tuple(rows_in(Role.TRAIN, **train)),
        select=(),
        test=tuple(rows_in(Role.TEST, **test)),
    )
    counts, test_counts = Counts(), Counts()
    note_off_language(roles, {Role.TRAIN: counts, Role.SELECT: counts, Role.TEST: test_counts})
    return roles, counts, test_counts


def test_rows_in_another_language_than_most_are_counted_and_none_is_dropped() -> None:
    roles, counts, test_counts = off_language(
        train={"en": 30, "de": 2, "und": 100, "zxx": 50}, test={"en": 5, "fr": 1, "und": 7}
    )
    assert counts.examples == {OFF_LANGUAGE: ["train-de-0", "train-de-1"]}
    assert test_counts.examples == {OFF_LANGUAGE: ["test-fr-0"]}
    assert counts.dropped == test_counts.dropped == 0
    (told,) = counts.reasons()
    assert told.unchanged
    counted = [(one.language, one.train, one.test) for one in count_languages(roles)]
    assert counted == [
        ("und", 100, 7),
        ("zxx", 50, 0),
        ("en", 30, 5),
        ("de", 2, 0),
        ("fr", 0, 1),
    ]


@pytest.mark.parametrize(
    "train", [{"en": 20, "de": 20}, {"en": 20, "de": 15, "fr": 5}, {"en": 8, "de": 1}]
)
def test_where_no_language_is_that_of_most_nothing_is_said(train: dict[str, int]) -> None:
    _, counts, test_counts = off_language(train=train, test={"es": 5})
    assert counts.rows == test_counts.rows == {OFF_LANGUAGE: 0}


def test_only_the_most_frequent_languages_are_listed() -> None:
    roles, _, _ = off_language(train={f"x{number}": 100 - number for number in range(30)}, test={})
    listed = count_languages(roles)
    assert [one.train for one in listed] == list(range(100, 80, -1))
