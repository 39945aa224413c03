"""A job's own limit as arithmetic: when to stop so that saving still fits.

The same for money and for device-hours: ``burn_per_hour`` is in units of the limit. Asked by the
core's budget policy.
"""

from fractions import Fraction

_SECONDS_PER_HOUR = 3600


def stop_at(
    limit: Fraction,
    burn_per_hour: Fraction,
    save_seconds: Fraction,
    control_interval_seconds: Fraction,
) -> Fraction:
    """Return the use at which a gang must be told to stop, never below zero.

    What is kept back pays for saving, and for the time until the next look, in which nobody asks.
    So a limit holds while looks come as often as they should, saving takes no longer than it may,
    and the burn doesn't rise; what is published is that it is never passed by more than
    burn × (control interval + grace).
    """
    reserve = burn_per_hour * (save_seconds + control_interval_seconds) / _SECONDS_PER_HOUR
    return max(Fraction(0), limit - reserve)
