"""Moments as whole milliseconds since the epoch, the unit in which use is divided.

Everything in ``cost`` turns times into these at its door, so that parts of an interval add up to
the whole without a remainder.
"""

from datetime import UTC, datetime, timedelta

from finetune_api.times import format_time, parse_time

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def instant(moment: datetime) -> int:
    """Milliseconds since the epoch, fractions cut off as on the wire."""
    return (moment - _EPOCH) // _MILLISECOND


def instant_of(text: str) -> int:
    """Read a timestamp of the wire. Raises ValueError where it names no moment."""
    return instant(parse_time(text))


def moment_of(milliseconds: int) -> datetime:
    """The inverse of ``instant``."""
    return _EPOCH + milliseconds * _MILLISECOND


def wire(milliseconds: int) -> str:
    """The inverse of ``instant_of``, in the one form that is stored."""
    return format_time(moment_of(milliseconds))
