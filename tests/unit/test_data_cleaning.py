"""What cleaning changes and drops, and that every row is accounted for."""

from __future__ import annotations

import html

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.dataset import Cleaning
from finetune_trainer.data import cleaning
from finetune_trainer.data.cleaning import Counts, clean, without_markup
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.data.rows import Row, input_key, normalize
from finetune_trainer.data.texts import ClassRows
from finetune_trainer.errors import DataError


def a_row(number: int, text: str, label: str = "a") -> Row[str, str]:
    return Row(
        id=str(number),
        input=text,
        target=label or None,
        group=None,
        place=f"rows.csv: row {number}",
    )


def cleaned(
    *rows: tuple[str, str], labels: tuple[str, ...] = (), **rules: object
) -> tuple[list[AnyCleanRow], Counts]:
    counts = Counts()
    made = (a_row(number, text, label) for number, (text, label) in enumerate(rows, start=1))
    return clean(made, Cleaning.model_validate(rules), labels, counts, ClassRows()), counts


RULES = st.builds(
    Cleaning,
    markup=st.booleans(),
    unicode_form=st.sampled_from(["NFC", "NFKC", "None"]),
    min_characters=st.integers(1, 4),
    deduplicate=st.booleans(),
    conflicts=st.sampled_from(["drop", "keep"]),
    drop_labels=st.sampled_from([(), ("b",)]),
)
ROWS = st.lists(
    st.tuples(st.text("aAﬁ <b>&;\x00\ufeffé", max_size=8), st.sampled_from(["a", "b", "c"])),
    min_size=1,
    max_size=40,
)


@given(ROWS, RULES)
def test_what_is_read_is_what_is_kept_and_what_is_dropped(
    rows: list[tuple[str, str]], rules: Cleaning
) -> None:
    counts = Counts()
    made = [a_row(number, text, label) for number, (text, label) in enumerate(rows)]
    made.append(a_row(len(rows), "surely kept", "c"))
    kept = clean(made, rules, (), counts, ClassRows())
    reasons = counts.reasons()
    assert counts.read == len(made)
    assert counts.read == len(kept) + sum(reason.rows for reason in reasons if reason.dropped)
    assert all(len(reason.examples) == min(reason.rows, 10) for reason in reasons)
    assert [row.id for row in kept] == sorted((row.id for row in kept), key=int)


@given(ROWS)
def test_no_input_is_left_twice_with_a_label_or_with_two_labels(
    rows: list[tuple[str, str]],
) -> None:
    kept, _ = cleaned(*rows, ("surely kept", "c"))
    keys = [row.key for row in kept]
    assert len(keys) == len(set(keys))


@given(st.text())
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [("It's GOOD", "it's good"), ("two  words\n", " two words"), ("ﬁne", "fine"), ("ß", "SS")],
)
def test_inputs_that_differ_in_case_space_or_form_count_as_the_same(left: str, right: str) -> None:
    assert input_key(left) == input_key(right)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a<br/>b", "a b"),
        ("<p class='x'>Fine</p>", " Fine "),
        ("salt &amp; pepper &#233;", "salt & pepper é"),
        ("before<!-- <b>hidden</b> -->after", "before after"),
        ("an <!-- open comment", "an <!-- open comment"),
        ("I <3 you, 2 < 3 > 1", "I <3 you, 2 < 3 > 1"),
        ("AT&T and R&D; fine", "AT&T and R&D; fine"),
        ("?a=1&copy=2", "?a=1&copy=2"),
    ],
)
def test_markup_is_taken_out_and_arithmetic_is_not(text: str, plain: str) -> None:
    assert without_markup(text) == plain


@given(st.text("abc <>&;!-/x", max_size=60))
def test_escaped_text_comes_back(text: str) -> None:
    assert without_markup(html.escape(text, quote=False)) == text


@pytest.mark.parametrize("opening", ["<!--", "<a ", "<", "&#", "<!----><!--"])
def test_markup_of_a_mebibyte_is_read_in_linear_time(opening: str) -> None:
    # Quadratic time on this would be hours: the test would not end.
    without_markup(opening * ((1 << 20) // len(opening)))


def test_control_characters_become_spaces_and_forms_are_composed() -> None:
    kept, counts = cleaned(("a\x00b\x9f", "x"), ("cafe\u0301", "y"), ("tab\tand\nline", "y"))
    assert [row.input for row in kept] == ["a b ", "café", "tab\tand\nline"]
    assert counts.rows[cleaning.CONTROL] == 1
    assert counts.rows[cleaning.UNICODE] == 1


def test_each_reason_to_drop_is_counted_with_its_rows() -> None:
    kept, counts = cleaned(
        *[(f"plain {number}", "a") for number in range(40)],
        ("dropped", "neutral"),
        ("unlabelled", ""),
        ("  ", "a"),
        ("<p> </p>", "a"),
        ("twin", "a"),
        ("TWIN ", "a"),
        ("either", "a"),
        ("either", "b"),
        dropLabels=("neutral",),
    )
    assert len(kept) == 41
    dropped = {reason.step: reason.examples for reason in counts.reasons() if reason.dropped}
    assert dropped == {
        cleaning.DROPPED_LABEL: ("41",),
        cleaning.NO_LABEL: ("42",),
        cleaning.NO_TEXT: ("43",),
        cleaning.TOO_SHORT: ("44",),
        cleaning.DUPLICATE: ("46",),
        cleaning.CONFLICT: ("47", "48"),
    }


def test_a_step_that_touches_nothing_shows_its_zero_and_one_that_is_off_is_not_shown() -> None:
    _, counts = cleaned(("x", "a"), markup=False, conflicts="keep")
    assert counts.rows[cleaning.DUPLICATE] == 0
    assert cleaning.MARKUP not in counts.rows
    assert cleaning.CONFLICT not in counts.rows


def test_many_rows_without_a_label_are_a_broken_file() -> None:
    with pytest.raises(DataError, match=r"2 of 4 rows have no label.*rows 2, 3"):
        cleaned(("x", "a"), ("y", ""), ("z", ""), ("w", "a"))


def test_a_label_that_is_not_among_those_named_is_an_error_at_its_row() -> None:
    with pytest.raises(DataError, match=r"rows\.csv: row 2: label 'c' is not among dataset\.label"):
        cleaned(("x", "a"), ("y", "c"), labels=("a", "b"))


def test_a_label_that_is_dropped_needs_no_name() -> None:
    kept, _ = cleaned(("x", "a"), ("y", "c"), labels=("a", "b"), dropLabels=("c",))
    assert [row.target for row in kept] == ["a"]


def test_cleaning_that_leaves_nothing_says_what_took_the_rows() -> None:
    with pytest.raises(DataError, match=r"left none of 2 rows \(no text: 2\)"):
        cleaned((" ", "a"), ("", "b"))
