"""What is spent is the sum of the records, exactly, and nothing beside it."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import Step
from finetune_api.usage import EndEvidence, TimeClass, UsageRecord
from finetune_operator.cost.ledger import (
    LedgerError,
    Totals,
    burn_rate,
    cost_status,
    device_seconds,
    lost_device_seconds,
    totals,
    use_by_device,
)
from finetune_operator.cost.money import CurrencyMismatchError, Money, display
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.records import correct, meter, seal, settle_lost
from unit.builders_cost import a_card, a_place, a_pod, a_price, a_record, at, some_marks

HOURLY = a_card(a_price("0.36"))
WORKED = some_marks(first_step_at=20, last_step_at=80, last_step=60)


def ended(uid: str = "pod-0", end: float = 100, **fields: object) -> PodView:
    return a_pod(uid, **{"started_at": at(10), "finished_at": at(end), **fields})  # type: ignore[arg-type]  # a test's own fields, by name


def metered(*pods: PodView, attempt: int = 1, now: float = 100, **fields: object) -> UsageRecord:
    cards = fields.get("cards", [HOURLY])
    marks = fields.get("marks", WORKED)
    assert isinstance(cards, list)
    return meter(a_record(attempt=attempt), pods, marks, cards, at(now))  # type: ignore[arg-type]


def usd(amount: Fraction) -> Money:
    return Money(amount, "USD")


def test_no_records_are_nothing_spent() -> None:
    assert totals([], "USD", at(0)) == Totals(
        spent=usd(Fraction(0)),
        wasted=usd(Fraction(0)),
        gpu_milliseconds=Fraction(0),
        rank_milliseconds=Fraction(0),
        unpriced_milliseconds=Fraction(0),
        by_class={},
        fake_gpu=False,
    )


def test_a_thousand_short_attempts_cost_what_they_cost() -> None:
    cards = [a_card(a_price("0.35"))]
    pod = {"started_at": at(0), "placement": a_place(milli_devices=8000)}
    records = [
        metered(ended(f"pod-{attempt}", 37, attempt=attempt, **pod), attempt=attempt, cards=cards)
        for attempt in range(1, 1001)
    ]
    sums = totals(records, "USD", at(37))
    assert sums.spent.amount == Fraction(1000 * 37 * 8 * 35, 3600 * 100)
    assert display(sums.spent) == "28.78 USD"
    assert cost_status(sums).spent == "28.777778"


def test_time_is_summed_by_class_and_device_and_money_by_what_became_of_it() -> None:
    pods = [
        ended(placement=a_place(milli_devices=500)),
        ended("pod-1", worker=1, started_at=at(15)),
    ]
    record = settle_lost(seal(metered(*pods), pods, WORKED, [HOURLY], at(100)), Fraction(3, 4))
    sums = totals([record], "USD", at(1000))
    second = Fraction(36, 100) / 3600
    assert sums.by_class == {
        TimeClass.PULLING: (5_000 + 15_000, 20 * second),
        TimeClass.GANG_WAIT: (2_500, Fraction(5, 2) * second),
        TimeClass.INIT: (2_500 + 5_000, Fraction(15, 2) * second),
        TimeClass.PRODUCTIVE: (22_500 + 45_000, Fraction(135, 2) * second),
        TimeClass.LOST: (7_500 + 15_000, Fraction(45, 2) * second),
        TimeClass.TEARDOWN: (10_000 + 20_000, 30 * second),
    }
    assert list(sums.by_class) == [name for name in TimeClass if name in sums.by_class]
    assert sums.spent == usd(150 * second)
    assert sums.wasted == usd(25 * second)
    assert sums.gpu_milliseconds == 150_000
    assert sums.rank_milliseconds == 0
    assert sums.unpriced_milliseconds == 0
    assert not sums.fake_gpu


def test_use_by_device_is_what_the_totals_are_made_of() -> None:
    fake = a_place(device="H100", fake_gpu=True)
    records = [
        metered(ended("pod-0")),
        metered(ended("pod-1", placement=a_place(milli_devices=500), attempt=2), attempt=2),
        metered(ended("pod-2", placement=fake, attempt=3), attempt=3, cards=[]),
        metered(a_pod("pod-3", started_at=at(10), attempt=4), attempt=4),
    ]
    later = at(150)
    use = use_by_device(records, later)
    sums = totals(records, "USD", later)
    assert sum(total.milliseconds for total in use.values()) == sums.gpu_milliseconds
    assert sum(total.cost for total in use.values()) == sums.spent.amount
    for name, total in sums.by_class.items():
        parts = [part for key, part in use.items() if key.time_class is name]
        assert sum(part.milliseconds for part in parts) == total.milliseconds
        assert sum(part.cost for part in parts) == total.cost
    assert {(key.device, key.fake_gpu, key.currency) for key in use} == {
        ("T4", False, "USD"),
        ("H100", True, ""),
    }
    assert all(part.cost == 0 for key, part in use.items() if not key.currency)


@pytest.mark.parametrize(
    ("name", "wasted"),
    [
        *[(TimeClass.GANG_WAIT, True), (TimeClass.STALLED, True), (TimeClass.LOST, True)],
        *[(TimeClass.PULLING, False), (TimeClass.CHECKPOINT, False), (TimeClass.UNKNOWN, False)],
    ],
)
def test_waste_is_waiting_with_devices_held_and_work_done_twice(
    name: TimeClass, *, wasted: bool
) -> None:
    record = metered(ended())
    (entry,) = record.spec.entries
    only = entry.model_copy(
        update={"classes": (entry.classes[0].model_copy(update={"name": name}),)}
    )
    record = record.model_copy(update={"spec": record.spec.model_copy(update={"entries": (only,)})})
    sums = totals([record], "USD", at(0))
    assert sums.spent == usd(Fraction(36, 360_000) * 10)
    assert sums.wasted == (sums.spent if wasted else usd(Fraction(0)))


def test_ranks_on_processors_are_counted_apart() -> None:
    cpu = a_place(device="cpu", local=True)
    cards = [a_card(a_price("0.36"), a_price("0.72", name="local", gpu_type=None))]
    record = metered(ended(), ended("pod-1", 50, worker=1, placement=cpu), cards=cards)
    sums = totals([record], "USD", at(100))
    assert (sums.gpu_milliseconds, sums.rank_milliseconds) == (100_000, 50_000)
    assert sums.spent == usd(Fraction(36, 360_000) * (100 + 2 * 50))


def test_hours_without_a_rate_are_shown_and_cost_nothing_yet() -> None:
    other = a_place(device="A100", milli_devices=2000)
    record = metered(ended(), ended("pod-1", 50, worker=1, placement=other))
    sums = totals([record], "USD", at(100))
    assert sums.unpriced_milliseconds == 100_000
    assert sums.gpu_milliseconds == 200_000
    assert sums.spent == usd(Fraction(36, 360_000) * 100)


def test_what_is_open_is_counted_up_to_now_of_an_unknown_class() -> None:
    pods = [a_pod(started_at=at(10)), ended("pod-1", 90, worker=1)]
    record = metered(*pods, now=95, marks=None)
    sums = totals([record], "USD", at(125))
    assert sums.by_class[TimeClass.UNKNOWN].milliseconds == 85_000 + 80_000 + 30_000
    assert sums.spent == usd(Fraction(36, 360_000) * (125 + 90))
    assert totals([record], "USD", at(0)).spent == usd(Fraction(36, 360_000) * (95 + 90))


def test_a_fake_device_marks_the_whole_sum() -> None:
    fake = ended("pod-1", placement=a_place(fake_gpu=True), worker=1)
    sums = totals([metered(ended(), fake)], "USD", at(100))
    assert sums.fake_gpu
    assert cost_status(sums).fake_gpu
    assert not cost_status(totals([metered(ended())], "USD", at(100))).fake_gpu


def test_a_pod_in_two_records_is_refused() -> None:
    one = metered(ended("pod-7"))
    two = metered(ended("pod-7", attempt=2), attempt=2)
    names = f"record {one.metadata.name} and in record {two.metadata.name}"
    message = f"pod-7 stands in {names}: its time would be paid twice; remove it .* not part of$"
    with pytest.raises(LedgerError, match=message):
        totals([one, two], "USD", at(100))


def test_a_segment_that_stands_twice_is_refused() -> None:
    record = metered(ended())
    twice = record.spec.model_copy(update={"entries": record.spec.entries * 2})
    with pytest.raises(LedgerError, match="two entries of one pod and segment"):
        totals([record.model_copy(update={"spec": twice})], "USD", at(100))


def test_a_record_that_is_given_twice_is_refused() -> None:
    with pytest.raises(LedgerError, match=r"^a record was given twice; sum each one once$"):
        totals([metered(), metered()], "USD", at(100))


def test_a_record_that_was_corrected_counts_no_more() -> None:
    unsure = ended("pod-1", 60, worker=1, end_evidence=EndEvidence.NODE_GONE, confirmed=False)
    first = seal(a_record(), [ended(), unsure], WORKED, [HOURLY], at(100))
    corrected = correct(first, [ended("pod-1", 250, worker=1)], [HOURLY], at(300))
    for records in ([first, corrected], [corrected, first]):
        assert totals(records, "USD", at(300)) == totals([corrected], "USD", at(300))
        assert use_by_device(records, at(300)) == use_by_device([corrected], at(300))
    assert totals([corrected], "USD", at(300)).gpu_milliseconds == 350_000


def test_segments_of_one_pod_are_no_doubles() -> None:
    cards = [a_card(a_price("0.36"), a_price("0.72", at(50)))]
    sums = totals([metered(ended(), cards=cards)], "USD", at(100))
    assert sums.spent == usd(Fraction(36, 360_000) * (50 + 2 * 50))


def test_a_sum_is_of_one_currency() -> None:
    record = metered(ended())
    with pytest.raises(
        CurrencyMismatchError,
        match=r"pod-0 is priced in USD .*card cloud.* EUR: state .* in one currency$",
    ):
        totals([record], "EUR", at(100))
    unpriced = metered(ended(), cards=[])
    assert totals([unpriced], "EUR", at(100)).spent == Money(Fraction(0), "EUR")


def test_what_burns_is_what_is_open_and_has_a_price() -> None:
    open_pods = [
        a_pod(placement=a_place(milli_devices=2500)),
        a_pod("pod-1", worker=1, placement=a_place(device="A100")),
        ended("pod-2", worker=2),
    ]
    record = metered(*open_pods)
    assert burn_rate([record], "USD") == usd(Fraction(36, 100) * Fraction(5, 2))
    assert burn_rate([metered(ended())], "EUR") == Money(Fraction(0), "EUR")
    assert burn_rate([], "EUR") == Money(Fraction(0), "EUR")
    with pytest.raises(CurrencyMismatchError):
        burn_rate([record], "EUR")


def test_only_the_segment_that_is_open_burns() -> None:
    cards = [a_card(a_price("0.36"), a_price("0.72", at(50)))]
    record = metered(a_pod(started_at=at(10)), cards=cards)
    assert burn_rate([record], "USD") == usd(Fraction(72, 100))


def test_the_status_is_rounded_once() -> None:
    cpu = a_place(device="cpu")
    record = metered(ended(), ended("pod-1", 50, worker=1, placement=cpu))
    status = cost_status(totals([record], "USD", at(100)), Fraction(1, 3), Fraction(2, 3))
    assert status.wire() == {
        "currency": "USD",
        "spent": "0.010000",
        "projected": "0.333333",
        "projectedP90": "0.666667",
        "wasted": "0.000000",
        "gpuHours": "0.027778",
        "rankHours": "0.013889",
        "unpricedHours": "0.013889",
        "display": "0.01 USD + unpriced",
        "fakeGpu": False,
        "classes": [
            {"name": "pulling", "deviceSeconds": "20.000000", "cost": "0.001000"},
            {"name": "init", "deviceSeconds": "20.000000", "cost": "0.001000"},
            {"name": "productive", "deviceSeconds": "90.000000", "cost": "0.006000"},
            {"name": "teardown", "deviceSeconds": "20.000000", "cost": "0.002000"},
        ],
    }
    assert cost_status(totals([record], "USD", at(100))).projected is None
    assert cost_status(totals([record], "USD", at(100))).projected_p90 is None


@pytest.mark.parametrize(
    ("pods", "text"),
    [
        ([], "0.00 USD"),
        ([ended()], "0.01 USD"),
        ([ended(end=1)], "<0.01 USD"),
        ([ended(placement=a_place(device="A100"))], "unpriced"),
        ([ended(), ended("pod-1", placement=a_place(device="A100"))], "0.01 USD + unpriced"),
        ([ended(placement=a_place(fake_gpu=True))], "0.01 USD (fake)"),
        ([ended(placement=a_place(fake_gpu=True, device="H100"))], "unpriced (fake)"),
        ([ended(placement=a_place(device="cpu"))], "unpriced"),
        ([ended(end=0.001, placement=a_place(device="A100"))], "unpriced"),
    ],
)
def test_for_people_unpriced_is_never_shown_as_nothing(pods: list[PodView], text: str) -> None:
    assert cost_status(totals([metered(*pods)], "USD", at(100))).display == text


def test_what_people_read_fits_into_its_column() -> None:
    dear = a_card(a_price("999999999999.999999999"))
    pods = [
        ended(end=360_000 * 9, placement=a_place(fake_gpu=True)),
        ended("pod-1", placement=a_place(device="A100")),
    ]
    status = cost_status(totals([metered(*pods, cards=[dear])], "USD", at(100)))
    assert status.display == "900000000000000.00 USD + unpriced (fake)"


def test_seconds_of_a_record_are_those_of_its_devices_rounded_once() -> None:
    half = a_place(milli_devices=500)
    pods = [ended(end=99.5, placement=half), ended("pod-1", 90.75, worker=1, placement=half)]
    record = metered(*pods)
    assert device_seconds(record) == 95
    assert lost_device_seconds(record) == 0
    lost = settle_lost(seal(record, pods, WORKED, [HOURLY], at(100)), Fraction(1, 4))
    assert device_seconds(lost) == 95
    assert lost_device_seconds(lost) == 45
    assert device_seconds(metered(ended(end=2_000_000))) == 2_000_000
    assert device_seconds(metered()) == lost_device_seconds(metered()) == 0


def test_seconds_of_a_living_pod_are_counted_to_its_last_look() -> None:
    assert device_seconds(metered(a_pod(started_at=at(1)), now=70)) == 70


pods_of_any_length = st.lists(
    st.tuples(
        st.integers(0, 10**7),
        st.sampled_from([125, 333, 1000, 8000]),
        st.sampled_from(["T4", "A100", "cpu"]),
    ),
    max_size=5,
)


@given(attempts=st.lists(pods_of_any_length, max_size=3))
def test_totals_are_the_sum_over_pods_however_they_are_spread_over_attempts(
    attempts: list[list[tuple[int, int, str]]],
) -> None:
    records = [
        metered(
            *(
                ended(
                    f"pod-{number}-{worker}",
                    length / 1000,
                    attempt=number,
                    worker=worker,
                    placement=a_place(milli_devices=milli, device=device),
                )
                for worker, (length, milli, device) in enumerate(pods)
            ),
            attempt=number,
        )
        for number, pods in enumerate(attempts, start=1)
    ]
    held = [pod for pods in attempts for pod in pods]
    sums = totals(records, "USD", at(0))
    assert sums.spent.amount == sum(
        (Fraction(ms * milli * 36, 360_000_000_000) for ms, milli, gpu in held if gpu == "T4"),
        start=Fraction(0),
    )
    assert sums.gpu_milliseconds + sums.rank_milliseconds == sum(
        Fraction(ms * milli, 1000) for ms, milli, _ in held
    )
    assert sums.rank_milliseconds == sum(
        Fraction(ms * milli, 1000) for ms, milli, device in held if device == "cpu"
    )
    assert sum(total.milliseconds for total in sums.by_class.values()) == sum(
        Fraction(ms * milli, 1000) for ms, milli, _ in held
    )
    assert sum(total.cost for total in sums.by_class.values()) == sums.spent.amount


def test_the_other_steps_work_is_priced_alike() -> None:
    record = meter(a_record(Step.PREPARE), [ended(step=Step.PREPARE)], None, [HOURLY], at(100))
    sums = totals([record], "USD", at(100))
    assert sums.by_class[TimeClass.PRODUCTIVE].milliseconds == 90_000
    assert sums.spent == usd(Fraction(1, 100))
