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
    """
    reserve = burn_per_hour * (save_seconds + control_interval_seconds) / _SECONDS_PER_HOUR
    return max(Fraction(0), limit - reserve)


def overspend_bound(
    burn_per_hour: Fraction, control_interval_seconds: Fraction, grace_seconds: Fraction
) -> Fraction:
    """Return the most by which a limit is ever passed, as published.

    It holds while the control loop looks as often as it says and a stopped pod is gone after its
    grace: a look just before the stop is due sees nothing to do, and the next one stops.
    """
    return burn_per_hour * (control_interval_seconds + grace_seconds) / _SECONDS_PER_HOUR
