"""A pod on a cluster's processors pays its cores and its memory, exactly, and nothing twice."""

from datetime import datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.ratecard import RateCard, RateEntry
from finetune_api.usage import CopiedRate
from finetune_operator.cost.ledger import totals
from finetune_operator.cost.pods import Placement
from finetune_operator.cost.rates import (
    find_rate,
    hourly_price,
    missing_entries,
    price_of,
    rate_changes,
)
from finetune_operator.cost.records import meter
from unit.builders_cost import LONG_AGO, NOON, a_card, a_place, a_pod, a_price, a_record, at


def a_cpu_place(**fields: object) -> Placement:
    given: dict[str, object] = {"device": "cpu", "milli_cores": 2000, "memory_mebibytes": 8192}
    return a_place(**{**given, **fields})


def per_core(amount: str, effective: datetime = LONG_AGO, **fields: object) -> RateEntry:
    return a_price(amount, effective, name="core", resource="cpu", gpu_type=None, **fields)


def per_gibibyte(amount: str, effective: datetime = LONG_AGO, **fields: object) -> RateEntry:
    return a_price(amount, effective, name="gib", resource="memory", gpu_type=None, **fields)


def price(place: Placement, *cards: RateCard) -> str | None:
    rate = find_rate(cards, place, NOON)
    return None if rate is None else rate.price_per_hour


def test_its_price_is_the_sum_and_says_how_it_was_made_up() -> None:
    rate = find_rate([a_card(per_core("0.04"), per_gibibyte("0.005"))], a_cpu_place(), NOON)
    assert rate == CopiedRate(
        card="cloud",
        entry="cpu+memory",
        price_per_hour="0.12",
        currency="USD",
        basis="2 cores × 0.04 + 8 GiB × 0.005",
    )


def test_parts_of_a_core_and_of_a_gibibyte_are_priced_without_rounding() -> None:
    card = a_card(per_core("0.000000001"), per_gibibyte("0.000000001"))
    place = a_cpu_place(milli_cores=1, memory_mebibytes=1)
    rate = find_rate([card], place, NOON)
    assert rate is not None
    assert rate.price_per_hour == "0.0000000000019765625"
    assert rate.basis == "0.001 cores × 0.000000001 + 0.0009765625 GiB × 0.000000001"


@pytest.mark.parametrize(
    ("place", "entries", "missing"),
    [
        (a_cpu_place(), (per_core("1"),), ("of resource memory",)),
        (a_cpu_place(), (per_gibibyte("1"),), ("of resource cpu",)),
        (a_cpu_place(), (a_price("1"),), ("of resource cpu", "of resource memory")),
        # An all-in price is an accelerator's; processors have none, whatever it is called.
        (
            a_cpu_place(),
            (a_price("1", gpu_type="cpu"),),
            ("of resource cpu", "of resource memory"),
        ),
        (
            a_cpu_place(),
            (per_core("1"), per_gibibyte("1", region="us-east1")),
            ("of resource memory",),
        ),
        (
            a_cpu_place(),
            (per_core("1"), per_gibibyte("1", effective=at(1))),
            ("of resource memory",),
        ),
        (a_cpu_place(milli_cores=0), (per_core("1"), per_gibibyte("1")), ("no cores",)),
        (a_cpu_place(memory_mebibytes=0), (per_core("1"), per_gibibyte("1")), ("no memory",)),
        (a_place(), (per_core("1"), per_gibibyte("1")), ("for gpuType T4",)),
        (a_place(local=True), (per_core("1"), per_gibibyte("1")), ("named local",)),
    ],
)
def test_without_both_prices_there_is_none_and_what_is_missing_is_named(
    place: Placement, entries: tuple[RateEntry, ...], missing: tuple[str, ...]
) -> None:
    cards = [a_card(*entries)]
    assert find_rate(cards, place, NOON) is None
    told = missing_entries(cards, place, NOON)
    assert len(told) == len(missing)
    assert all(part in text for part, text in zip(missing, told, strict=True)), told


def test_an_accelerator_is_all_in() -> None:
    everything = a_card(a_price("0.35"), per_core("1"), per_gibibyte("1"))
    place = a_place(milli_cores=8000, memory_mebibytes=65536)
    assert price(place, everything) == "0.35"
    assert missing_entries([everything], place, NOON) == ()


def test_each_of_the_two_is_chosen_by_itself() -> None:
    general = a_card(per_core("10"), per_gibibyte("1"), name="general")
    spot = a_card(per_core("2", capacity_type="Spot"), name="spot")
    place = a_cpu_place(milli_cores=1000, memory_mebibytes=1024)
    for cards in ([general, spot], [spot, general]):
        rate = find_rate(cards, place, NOON)
        assert rate is not None
        assert (rate.card, rate.price_per_hour) == ("spot+general", "3")


def test_prices_in_two_currencies_make_no_sum() -> None:
    dollars = a_card(per_core("1"))
    euros = a_card(per_gibibyte("1"), name="lease", currency="EUR")
    assert price(a_cpu_place(), dollars, euros) is None
    (told,) = missing_entries([dollars, euros], a_cpu_place(), NOON)
    assert "same currency" in told


def test_two_cards_of_long_names_still_make_a_record() -> None:
    cards = [a_card(per_core("1"), name="a" * 253), a_card(per_gibibyte("1"), name="b" * 253)]
    rate = find_rate(cards, a_cpu_place(), NOON)
    assert rate is not None
    assert len(rate.card) == 253


def test_time_is_split_where_either_price_changes() -> None:
    card = a_card(
        per_core("1"),
        per_gibibyte("1"),
        per_core("2", effective=at(10)),
        per_gibibyte("2", effective=at(20)),
        # The same sum, made up in another way, is another price.
        per_core("3", effective=at(30)),
        per_gibibyte("1.75", effective=at(30)),
        per_core("3", effective=at(40)),
    )
    place = a_cpu_place(milli_cores=2000, memory_mebibytes=8192)
    assert rate_changes([card], place, at(0), at(100)) == (at(10), at(20), at(30))
    record = meter(a_record(), [a_pod(placement=place)], None, [card], at(50))
    assert [entry.rate.basis for entry in record.spec.entries if entry.rate] == [
        "2 cores × 1 + 8 GiB × 1",
        "2 cores × 2 + 8 GiB × 1",
        "2 cores × 2 + 8 GiB × 2",
        "2 cores × 3 + 8 GiB × 1.75",
    ]


def test_a_price_begins_once_both_hold() -> None:
    card = a_card(per_core("1"), per_gibibyte("1", effective=at(10)))
    record = meter(a_record(), [a_pod(placement=a_cpu_place())], None, [card], at(20))
    assert [entry.rate is None for entry in record.spec.entries] == [True, False]
    assert totals([record], "USD", at(20)).unpriced_milliseconds == 10_000


decimals = st.from_regex(r"[0-9]{1,12}(\.[0-9]{1,9})?", fullmatch=True)
milli_cores = st.integers(min_value=1, max_value=100_000_000)
mebibytes = st.integers(min_value=1, max_value=100_000_000)


@given(decimals, decimals, milli_cores, mebibytes, st.integers(0, 10**10))
def test_whatever_the_prices_and_sizes_the_sum_is_exact_and_fits_its_field(
    core: str, gibibyte: str, cores: int, memory: int, milliseconds: int
) -> None:
    place = a_cpu_place(milli_cores=cores, memory_mebibytes=memory)
    rate = find_rate([a_card(per_core(core), per_gibibyte(gibibyte))], place, NOON)
    assert rate is not None
    hour = Fraction(core) * cores / 1000 + Fraction(gibibyte) * memory / 1024
    assert CopiedRate.model_validate(rate.wire()) == rate
    assert hourly_price(rate, 1000) == hour
    assert price_of(rate, 1000, milliseconds) == hour * milliseconds / 3_600_000


prices = st.integers(min_value=0, max_value=4).map(str)
moments = st.integers(min_value=-5, max_value=5)


@given(
    st.lists(st.tuples(st.sampled_from(["cpu", "memory"]), prices, moments), max_size=8),
    moments,
    st.integers(min_value=1, max_value=6),
)
def test_between_two_changes_one_price_holds(
    entries: list[tuple[str, str, int]], start: int, length: int
) -> None:
    made = {
        (resource, moment): a_price(
            amount, at(moment), name=resource, resource=resource, gpu_type=None
        )
        for resource, amount, moment in entries
    }
    cards = [a_card(a_price("9"), *made.values())]
    place, end = a_cpu_place(), start + length
    changes = rate_changes(cards, place, at(start), at(end))
    edges = {at(start), *changes}
    expected = find_rate(cards, place, at(start))
    for second in range(start, end):
        found = find_rate(cards, place, at(second))
        assert (found != expected) == (at(second) in edges - {at(start)})
        expected = found
