"""Exact money: rationals in one currency, rounded once, where a person reads them."""

import re
from dataclasses import dataclass
from fractions import Fraction

_DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
_EXACT_PRICE = re.compile(r"[0-9]{1,20}(\.[0-9]{1,19})?")
_MOST_PLACES = 19


class CurrencyMismatchError(ValueError):
    """Sums of different currencies mean nothing, and no exchange rate is known here."""


class DecimalFormatError(ValueError):
    """A text that should be a decimal number of the contract is none."""


@dataclass(frozen=True)
class Money:
    """An exact amount of one currency (ISO 4217)."""

    amount: Fraction
    currency: str

    def __add__(self, other: "Money") -> "Money":
        if other.currency != self.currency:
            raise CurrencyMismatchError(
                f"{display(self)} and {display(other)} can't be added: "
                "state limits and rates in one currency"
            )
        return Money(self.amount + other.amount, self.currency)


def parse_decimal(text: str) -> Fraction:
    """Read a ``Decimal`` of the contract exactly; no sign, exponent or other spelling.

    Raises DecimalFormatError, with the text and the form that is wanted.
    """
    if _DECIMAL.fullmatch(text) is None:
        raise DecimalFormatError(
            f"{text!r} is no decimal number: write up to 12 digits, and after a point up to 9 more"
        )
    return Fraction(text)


def parse_price(text: str) -> Fraction:
    """Read an ``ExactPrice`` of the contract exactly; a ``Decimal`` is one too.

    Raises DecimalFormatError, with the text and the form that is wanted.
    """
    if _EXACT_PRICE.fullmatch(text) is None:
        raise DecimalFormatError(
            f"{text!r} is no price: write up to 20 digits, and after a point up to "
            f"{_MOST_PLACES} more"
        )
    return Fraction(text)


def exact_text(amount: Fraction) -> str:
    """Write an amount with all of its places, and no more: nothing is rounded.

    Raises DecimalFormatError for one that doesn't end within 19 places.
    """
    for places in range(_MOST_PLACES + 1):
        if (amount * 10**places).denominator == 1:
            return amount_text(amount, places)
    raise DecimalFormatError(f"{amount} can't be written exactly within {_MOST_PLACES} places")


def amount_text(amount: Fraction, places: int = 6) -> str:
    """Write an amount with a fixed number of places, half to even, in the form of ``Amount``."""
    scaled = round(amount * 10**places)
    digits = str(abs(scaled)).rjust(places + 1, "0")
    sign = "-" if scaled < 0 else ""
    whole, decimals = digits[: len(digits) - places], digits[len(digits) - places :]
    return f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"


def display(money: Money) -> str:
    """Write money for people, to the hundredth; less than that is never shown as nothing."""
    text = amount_text(money.amount, 2)
    if money.amount > 0 and text == "0.00":
        return f"<0.01 {money.currency}"
    return f"{text} {money.currency}"
