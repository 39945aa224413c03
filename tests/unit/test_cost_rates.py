"""A price is that of the place, on the day; where none agrees there is none."""

from datetime import timedelta
from fractions import Fraction

import pytest

from finetune_api.ratecard import RateCard, RateEntry
from finetune_operator.cost.pods import Placement
from finetune_operator.cost.rates import (
    find_rate,
    hourly_price,
    price_of,
    rate_changes,
)
from unit.builders_cost import NOON, a_card, a_place, a_price, at

EVERYWHERE = a_price("0.35", name="everywhere")
SPOT = a_price("0.11", name="spot", capacity_type="Spot")
IN_REGION = a_price("0.20", name="region", region="eu-west4", provider="gcp")
LOCAL = a_price("0.01", name="local", gpu_type=None)


def price(cards: list[RateCard], place: Placement, moment: float = 0) -> str | None:
    rate = find_rate(cards, place, at(moment))
    return None if rate is None else rate.price_per_hour


@pytest.mark.parametrize(
    ("entries", "place", "expected"),
    [
        ([EVERYWHERE], a_place(), "0.35"),
        ([EVERYWHERE], a_place(device="A100"), None),
        ([a_price("1", gpu_type=None)], a_place(), None),
        ([EVERYWHERE, SPOT], a_place(), "0.11"),
        ([SPOT, EVERYWHERE], a_place(), "0.11"),
        ([EVERYWHERE, SPOT], a_place(capacity_type="OnDemand"), "0.35"),
        ([EVERYWHERE, SPOT], a_place(capacity_type=None), "0.35"),
        ([SPOT], a_place(capacity_type="OnDemand"), None),
        ([SPOT, IN_REGION], a_place(), "0.20"),
        ([IN_REGION], a_place(region="us-east1"), None),
        ([IN_REGION], a_place(provider="aws"), None),
        ([IN_REGION], a_place(capacity_type=None), "0.20"),
        ([a_price("1", resource="cpu", gpu_type=None)], a_place(device="cpu"), None),
        ([a_price("1", resource="memory", gpu_type=None)], a_place(), None),
        ([], a_place(), None),
    ],
)
def test_the_entry_with_the_most_selectors_that_all_agree_holds(
    entries: list[RateEntry], place: Placement, expected: str | None
) -> None:
    filler = a_price("9", name="other", gpu_type="H100")
    assert price([a_card(filler, *entries)], place) == expected


@pytest.mark.parametrize("resource", ["accelerator", "cpu"])
def test_a_local_run_is_priced_by_the_entry_named_local_alone(resource: str) -> None:
    place = a_place(local=True, device="cpu")
    assert price([a_card(EVERYWHERE, a_price("1", gpu_type="cpu"))], place) is None
    local = a_price("0.02", name="local", gpu_type=None, resource=resource, region="elsewhere")
    assert price([a_card(EVERYWHERE, local)], place) == "0.02"


def test_a_card_for_local_runs_prices_no_cluster() -> None:
    assert price([a_card(LOCAL)], a_place()) is None


@pytest.mark.parametrize(
    ("moment", "expected"),
    [(-0.001, None), (0, "0.50"), (99.999, "0.50"), (100, "0.40"), (10_000, "0.40")],
)
def test_a_price_holds_from_its_date_on_until_a_later_one(
    moment: float, expected: str | None
) -> None:
    card = a_card(a_price("0.50", at(0)), a_price("0.40", at(100)))
    assert price([card], a_place(), moment) == expected


def test_a_specific_price_outlives_a_general_one_of_a_later_date() -> None:
    assert price([a_card(SPOT, a_price("0.50", at(-1)))], a_place()) == "0.11"


def test_of_two_prices_that_agree_alike_the_dearer_holds() -> None:
    cheap, dear = a_card(a_price("0.9"), name="z"), a_card(a_price("0.10"), name="a")
    dearest = a_card(a_price("10"), name="m")
    for cards in ([cheap, dear, dearest], [dearest, dear, cheap], [dear, dearest, cheap]):
        rate = find_rate(cards, a_place(), NOON)
        assert rate is not None
        assert (rate.card, rate.entry, rate.price_per_hour) == ("m", "t4", "10")


def test_a_rate_says_where_it_was_read() -> None:
    rate = find_rate([a_card(SPOT, name="list", currency="EUR")], a_place(), NOON)
    assert rate is not None
    assert rate.wire() == {
        "card": "list",
        "entry": "spot",
        "pricePerHour": "0.11",
        "currency": "EUR",
    }


def test_time_is_split_strictly_within_and_only_where_another_price_begins() -> None:
    card = a_card(
        a_price("0.50", at(0)),
        a_price("0.40", at(10)),
        a_price("0.30", at(10), name="cheaper"),
        a_price("0.40", at(20)),
        a_price("0.60", at(30)),
        a_price("0.70", at(40)),
        a_price("0.05", at(25), capacity_type="OnDemand"),
    )
    place = a_place()
    assert rate_changes([card], place, at(0), at(40)) == (at(10), at(30))
    assert rate_changes([card], place, at(0), at(40.001)) == (at(10), at(30), at(40))
    assert rate_changes([card], place, at(10), at(30)) == ()
    assert rate_changes([card], place, at(9.999), at(10.001)) == (at(10),)
    assert rate_changes([card], place, at(-10), at(5)) == (at(0),)
    assert rate_changes([], place, at(0), at(40)) == ()


def test_a_date_finer_than_a_millisecond_begins_with_its_millisecond() -> None:
    entry = a_price("0.40", at(10), name="fine")
    fine = entry.model_copy(update={"effective_from": "2026-03-01T12:00:10.000999Z"})
    card = a_card(a_price("0.50"), fine)
    assert rate_changes([card], a_place(), at(0), at(20)) == (at(10),)
    assert price([card], a_place(), 10) == "0.40"
    just_before = at(10) - timedelta(microseconds=1)
    rate = find_rate([card], a_place(), just_before)
    assert rate is not None
    assert rate.price_per_hour == "0.50"


def test_a_price_is_of_whole_devices_and_hours_and_exact_for_parts() -> None:
    rate = find_rate([a_card(EVERYWHERE)], a_place(), NOON)
    assert rate is not None
    assert hourly_price(rate, 8000) == Fraction(28, 10)
    assert hourly_price(rate, 125) == Fraction(35, 800)
    assert price_of(rate, 1000, 3_600_000) == Fraction(35, 100)
    assert price_of(rate, 2000, 1) == Fraction(35, 100) * 2 / 3_600_000
