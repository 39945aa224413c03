"""Money is exact, of one currency, and rounded once."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from finetune_api.status import Amount
from finetune_operator.cost.money import (
    CurrencyMismatchError,
    DecimalFormatError,
    Money,
    amount_text,
    display,
    exact_text,
    parse_decimal,
    parse_price,
)

AMOUNT: TypeAdapter[str] = TypeAdapter(Amount)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", Fraction(0)),
        ("0.1", Fraction(1, 10)),
        ("2.25", Fraction(9, 4)),
        ("0.000000001", Fraction(1, 10**9)),
        ("999999999999.999999999", Fraction(999999999999999999999, 10**9)),
    ],
)
def test_a_decimal_is_read_exactly(text: str, value: Fraction) -> None:
    assert parse_decimal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", " 1", "1 ", "1\n", "-1", "+1", "1e3", "1E3", "1/3", "1_000", "1,5", ".5", "5."),
        *("nan", "inf", "0x10", "１", "1.0.0"),
        *("1000000000000", "0.0000000001"),
    ],
)
def test_another_spelling_is_no_decimal(text: str) -> None:
    with pytest.raises(DecimalFormatError, match=re.escape(repr(text))):
        parse_decimal(text)


@given(st.integers(min_value=0, max_value=10**39 - 1), st.integers(min_value=0, max_value=19))
def test_a_price_is_written_with_all_of_its_places_and_read_back(units: int, places: int) -> None:
    amount = Fraction(units, 10**places)
    if amount < 10**20:
        text = exact_text(amount)
        assert parse_price(text) == amount
        assert "." not in text or not text.endswith("0")


@pytest.mark.parametrize("amount", [Fraction(1, 3), Fraction(1, 10**20), Fraction(1, 2**20)])
def test_what_has_no_end_is_not_written_as_if_it_had(amount: Fraction) -> None:
    with pytest.raises(DecimalFormatError, match="exactly"):
        exact_text(amount)


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", ".5", "5.", "1\n", "1" * 21, "0." + "0" * 19 + "1"]
)
def test_another_spelling_is_no_price(text: str) -> None:
    with pytest.raises(DecimalFormatError, match=re.escape(repr(text))):
        parse_price(text)


@pytest.mark.parametrize(
    ("amount", "places", "text"),
    [
        (Fraction(0), 6, "0.000000"),
        (Fraction(1, 3), 6, "0.333333"),
        (Fraction(2, 3), 6, "0.666667"),
        (Fraction(1, 2 * 10**6), 6, "0.000000"),
        (Fraction(3, 2 * 10**6), 6, "0.000002"),
        (Fraction(5, 2 * 10**6), 6, "0.000002"),
        (Fraction(-1, 3), 6, "-0.333333"),
        (Fraction(-1, 10**9), 6, "0.000000"),
        (Fraction(-125, 100), 1, "-1.2"),
        (Fraction(10), 2, "10.00"),
        (Fraction(1, 100), 2, "0.01"),
        (Fraction(995, 1000), 2, "1.00"),
        (Fraction(7, 2), 0, "4"),
        (Fraction(5, 2), 0, "2"),
        (Fraction(10**14), 6, "100000000000000.000000"),
    ],
)
def test_an_amount_is_rounded_half_to_even(amount: Fraction, places: int, text: str) -> None:
    assert amount_text(amount, places) == text


@given(st.fractions(min_value=-(10**14), max_value=10**14))
def test_an_amount_is_written_as_the_contract_wants_it(amount: Fraction) -> None:
    text = AMOUNT.validate_python(amount_text(amount))
    assert abs(Fraction(text) - amount) <= Fraction(1, 2 * 10**6)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (Fraction(123, 100), "1.23 USD"),
        (Fraction(0), "0.00 USD"),
        (Fraction(1, 10**9), "<0.01 USD"),
        (Fraction(5, 1000), "<0.01 USD"),
        (Fraction(51, 10000), "0.01 USD"),
        (Fraction(-1, 10**9), "0.00 USD"),
    ],
)
def test_little_money_is_never_shown_as_none(amount: Fraction, text: str) -> None:
    assert display(Money(amount, "USD")) == text


def test_sums_are_of_one_currency() -> None:
    third = Money(Fraction(1, 3), "EUR")
    assert third + third + third == Money(Fraction(1), "EUR")
    with pytest.raises(
        CurrencyMismatchError,
        match=r"0\.33 EUR and 1\.00 USD can't be added: state limits .* currency$",
    ):
        third + Money(Fraction(1), "USD")
