"""A job is stopped early enough that saving fits into its limit."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.cost.budget import overspend_bound, stop_at

amounts = st.fractions(min_value=0, max_value=10**6)


@pytest.mark.parametrize(
    ("limit", "burn", "save", "interval", "expected"),
    [
        (Fraction(10), Fraction(3600), 2, 1, Fraction(7)),
        (Fraction(10), Fraction(0), 100, 100, Fraction(10)),
        (Fraction(3), Fraction(3600), 2, 1, Fraction(0)),
        (Fraction(2), Fraction(3600), 2, 1, Fraction(0)),
        (Fraction(1), Fraction(28, 10), 120, 15, Fraction(1) - Fraction(28, 10) * 135 / 3600),
    ],
)
def test_the_cost_of_saving_and_of_one_look_is_kept_back(
    limit: Fraction, burn: Fraction, save: int, interval: int, expected: Fraction
) -> None:
    assert stop_at(limit, burn, Fraction(save), Fraction(interval)) == expected


def test_the_published_bound_is_a_look_and_a_grace_long() -> None:
    assert overspend_bound(Fraction(3600), Fraction(15), Fraction(120)) == 135
    assert overspend_bound(Fraction(36, 10), Fraction(10), Fraction(20)) == Fraction(3, 100)


@given(amounts, amounts, amounts, amounts, amounts, st.fractions(min_value=0, max_value=1))
def test_a_stop_that_is_seen_one_look_late_passes_the_limit_by_no_more_than_the_bound(
    limit: Fraction,
    burn: Fraction,
    save: Fraction,
    interval: Fraction,
    grace: Fraction,
    lateness: Fraction,
) -> None:
    told_at = stop_at(limit, burn, save, interval) + burn * interval * lateness / 3600
    spent = told_at + burn * min(save, grace) / 3600
    assert spent <= limit + overspend_bound(burn, interval, grace)
    if stop_at(limit, burn, save, interval) > 0:
        assert spent <= limit
