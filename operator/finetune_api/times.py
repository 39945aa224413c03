"""Timestamps of the wire: RFC 3339 strings and aware datetimes, to the millisecond.

Intervals that cost money are integers of milliseconds; the API server's own times are whole
seconds, a local run's are finer.
"""

from datetime import UTC, datetime, timedelta


def parse_time(text: str) -> datetime:
    """Read an RFC 3339 timestamp; the result is aware and in UTC."""
    return datetime.fromisoformat(text).astimezone(UTC)


def format_time(moment: datetime) -> str:
    """Write a moment as RFC 3339 in UTC; milliseconds only where there are some."""
    utc = moment.astimezone(UTC)
    timespec = "milliseconds" if utc.microsecond >= 1000 else "seconds"
    return f"{utc.replace(tzinfo=None).isoformat(timespec=timespec)}Z"


def milliseconds_between(start: datetime, end: datetime) -> int:
    """Whole milliseconds from ``start`` to ``end``; never negative."""
    return max(0, (end - start) // timedelta(milliseconds=1))
