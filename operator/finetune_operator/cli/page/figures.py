"""How numbers are written for people, on the whole page alike."""

from datetime import timedelta
from decimal import Decimal

from finetune_api.evaluationreport import Interval
from finetune_api.times import parse_time

NO_BREAK_SPACE = "\u00a0"
MINUS = "−"
UNDEFINED = "–"


def score(value: float | None) -> str:
    """A figure between -1 and 1, to three places."""
    return UNDEFINED if value is None else _signed(f"{value:.3f}")


def interval(value: Interval | None) -> str:
    """A score with its 95 % interval: ``0.845 [0.828, 0.861]``."""
    if value is None:
        return UNDEFINED
    return score(value.value) + bounds(value)


def bounds(value: Interval) -> str:
    """The interval alone, with a space before it; nothing where there is none."""
    if value.low is None or value.high is None:
        return ""
    return f" [{score(value.low)}, {score(value.high)}]"


def percent(share: float) -> str:
    """A share in whole percent without its sign for percent; below one it keeps a decimal."""
    points = 100 * share
    small = 0 < abs(points) < 0.95
    if small and abs(points) < 0.05:
        return f"<{NO_BREAK_SPACE}0.1" if points > 0 else f">{NO_BREAK_SPACE}{MINUS}0.1"
    return _signed(f"{points:.1f}" if small else f"{points:.0f}")


def with_percent(share: float) -> str:
    """A share in percent, with its sign for percent."""
    return f"{percent(share)}{NO_BREAK_SPACE}%"


def percent_range(low: float, high: float) -> str:
    """Two shares as ``14 to 32 %``."""
    return f"{percent(low)} to {with_percent(high)}"


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A number of things: ``1 attempt``, ``4 attempts``."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def places(value: float, digits: int = 1) -> str:
    """A number to so many places, thousands apart."""
    return _signed(f"{value:,.{digits}f}")


def money(amount: str, currency: str) -> str:
    """An amount to the hundredth, or to three significant digits where that says more."""
    text = f"{Decimal(amount):,.{money_places(amount)}f}"
    whole, _, decimals = text.partition(".")
    shown = f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"
    return f"{_signed(shown)}{NO_BREAK_SPACE}{currency}"


def money_places(amount: str) -> int:
    """How many decimal places show three significant digits of an amount: from 2 to 6."""
    value = Decimal(amount)
    return max(2, min(6, 2 - value.adjusted())) if value else 2


def money_in_column(amount: str, currency: str, decimals: int) -> str:
    """An amount to a given number of places; what rounds to nothing is said to be less."""
    value = Decimal(amount)
    least = Decimal(1).scaleb(-decimals)
    if 0 < value < least / 2:
        return f"<{NO_BREAK_SPACE}{least:f}{NO_BREAK_SPACE}{currency}"
    return f"{_signed(f'{value:,.{decimals}f}')}{NO_BREAK_SPACE}{currency}"


def hours(amount: str) -> str:
    """Hours to three places."""
    return f"{Decimal(amount):,.3f}{NO_BREAK_SPACE}h"


def seconds(value: float) -> str:
    """A length of time in its two largest units: ``4 min 10 s``."""
    if 0 < value < 0.5:
        return f"<{NO_BREAK_SPACE}1{NO_BREAK_SPACE}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}{NO_BREAK_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{NO_BREAK_SPACE}min {whole % 60}{NO_BREAK_SPACE}s"
    if whole < 86_400:
        return f"{whole // 3600}{NO_BREAK_SPACE}h {whole % 3600 // 60}{NO_BREAK_SPACE}min"
    return f"{whole // 86_400}{NO_BREAK_SPACE}d {whole % 86_400 // 3600}{NO_BREAK_SPACE}h"


def between(start: str, end: str) -> timedelta:
    """The time between two timestamps of the contract."""
    return parse_time(end) - parse_time(start)


def moment(timestamp: str | None) -> str:
    """A timestamp of the contract as ``2026-11-23 12:41:32 UTC``."""
    return UNDEFINED if timestamp is None else f"{parse_time(timestamp):%Y-%m-%d %H:%M:%S} UTC"


def clock(timestamp: str | None) -> str:
    """The time of day of a timestamp, in UTC."""
    return UNDEFINED if timestamp is None else f"{parse_time(timestamp):%H:%M:%S}"


def _signed(text: str) -> str:
    """A number's text with a real minus, and without one before nothing but zeros."""
    if not text.startswith("-"):
        return text
    return MINUS + text[1:] if text.strip("-0.,") else text[1:]
