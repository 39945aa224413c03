"""I5: a limit is never passed by more than the published bound, whatever happens on the way."""

from datetime import datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.phases import Phase
from finetune_api.ratecard import RateCard
from finetune_api.times import format_time, milliseconds_between
from harness.scripted import START, CrashError, Fault, World, a_card, a_job, drive

WORKERS = 2
MILLISECONDS_PER_HOUR = 3_600_000

limits = st.integers(min_value=1, max_value=60)
"""In thousandths of a dollar."""
prices = st.sampled_from(["0.36", "0.9", "3.6", "36"])
graces = st.integers(min_value=5, max_value=40)
"""Each longer than a save takes in the scripted world."""
looks = st.sampled_from([1.0, 3.0, 7.0, 15.0])
faults = st.lists(
    st.builds(
        Fault,
        attempt=st.integers(1, 5),
        worker=st.integers(0, WORKERS - 1),
        after_seconds=st.integers(0, 30),
        exit_code=st.sampled_from([137, 70, 75, 1]),
    ),
    max_size=4,
)


def spent(world: World, price: str, later: str, change: datetime) -> Fraction:
    """What the world's own account comes to: its pods' time at the price of each moment."""
    total = Fraction(0)
    for since, until in world.held.values():
        assert until is not None
        end = max(since, until)
        before = max(0, milliseconds_between(since, min(end, change)))
        whole = milliseconds_between(since, end)
        total += (before * Fraction(price) + (whole - before) * Fraction(later)) / (
            MILLISECONDS_PER_HOUR
        )
    return total


def a_card_that_changes(price: str, later: str, change: datetime) -> RateCard:
    card = a_card(price)
    (entry,) = card.spec.entries
    changed = entry.model_copy(
        update={"price_per_hour": later, "effective_from": format_time(change)}
    )
    spec = card.spec.model_copy(update={"entries": (entry, changed)})
    return card.model_copy(update={"spec": spec})


def a_limited_world(limit: int, grace: int, look: float, **fields: object) -> World:
    job = a_job(
        budget={"maxCost": f"{limit / 1000}"},
        policy={"gracePeriodSeconds": grace, "backoffLimit": 10},
        training={"maxSteps": 30},
        compute={"workers": WORKERS, "gpusPerWorker": 1},
    )
    return World(job=job, look_seconds=look, **fields)  # type: ignore[arg-type]  # by name


def over(limit: int, amount: Fraction) -> Fraction:
    return amount - Fraction(limit, 1000)


@settings(max_examples=25, deadline=None)
@given(limits, prices, graces, looks, faults)
async def test_while_looks_come_in_time_a_limit_is_not_passed_at_all(
    limit: int, price: str, grace: int, look: float, broken: list[Fault]
) -> None:
    world = a_limited_world(limit, grace, look, cards=(a_card(price),), faults=tuple(broken))
    await drive(world)
    assert over(limit, spent(world, price, price, START)) <= 0


@settings(max_examples=25, deadline=None)
@given(
    limit=limits,
    price=prices,
    later=prices,
    change=st.integers(0, 90),
    grace=graces,
    look=looks,
    broken=faults,
    crashes=st.sets(st.integers(1, 30), max_size=5),
)
async def test_whatever_dies_and_whatever_gets_dearer_the_published_bound_holds(
    *,
    limit: int,
    price: str,
    later: str,
    change: int,
    grace: int,
    look: float,
    broken: list[Fault],
    crashes: set[int],
) -> None:
    changed_at = START + timedelta(seconds=change)
    card = a_card_that_changes(price, later, changed_at)
    world = a_limited_world(limit, grace, look, cards=(card,), faults=tuple(broken))
    seen = 0

    def crash(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen in crashes:
            raise CrashError

    world.after_write = crash
    await drive(world)
    burn = WORKERS * max(Fraction(price), Fraction(later))
    bound = burn * (Fraction(look) + grace) / 3600
    assert over(limit, spent(world, price, later, changed_at)) <= bound


@pytest.mark.parametrize(("limit", "phase"), [(60, Phase.COMPLETE), (20, Phase.SUSPENDED)])
async def test_the_limits_above_let_some_jobs_finish_and_stop_others(
    limit: int, phase: Phase
) -> None:
    world = a_limited_world(limit, 10, 3.0, cards=(a_card("0.9"),))
    await drive(world)
    assert world.status is not None
    assert world.status.phase is phase
    assert len(world.gangs) > 1
