"""A job is stopped early enough that saving fits into its limit."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.cost.budget import stop_at

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
    assert spent <= limit + burn * (interval + grace) / 3600
    if stop_at(limit, burn, save, interval) > 0:
        assert spent <= limit
