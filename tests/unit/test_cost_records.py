"""A record holds what its pods held: joined from looks in any order, sealed once, then settled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.report import Marks, Step
from finetune_api.usage import EndEvidence, JobReference, TimeClass, UsageRecord
from finetune_operator.cost.facts import join_marks
from finetune_operator.cost.money import amount_text
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.rates import price_of
from finetune_operator.cost.records import (
    RecordError,
    correct,
    latest,
    meter,
    open_record,
    record_name,
    seal,
    settle_lost,
)
from unit.builders_cost import (
    JOB_UID,
    a_card,
    a_job,
    a_place,
    a_pod,
    a_price,
    a_record,
    at,
    classes_of,
    counted,
    interval,
    said,
    some_marks,
)

CARDS = (a_card(a_price("0.36")),)
SPLIT = "sha256:" + "0" * 64


def ended(uid: str = "pod-0", bound: float = 0, end: float = 100, **fields: object) -> PodView:
    """A pod that started 10 s after it was bound and ended."""
    facts: dict[str, object] = {
        "started_at": at(bound + 10),
        "finished_at": at(end),
        "end_evidence": EndEvidence.CONTAINERS_TERMINATED,
        **fields,
    }
    return a_pod(uid, bound, **facts)


def shape(record: UsageRecord) -> list[tuple[str, str | None, str | None]]:
    """Since, until and price of every entry."""
    return [
        (entry.since, entry.until, entry.rate.price_per_hour if entry.rate else None)
        for entry in record.spec.entries
    ]


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "each"), [(1, 40), (64, 15)])
def test_a_record_stays_as_small_as_it_must_be_however_often_the_price_changes(
    workers: int, each: int
) -> None:
    card = a_card(*(a_price(f"0.{n:02d}", at(n * 10)) for n in range(1, 41)))
    pods = [a_pod(f"pod-{n:02d}", 10, worker=n, started_at=at(11)) for n in range(workers)]
    record = a_record()
    for now in (200, 405, 900):
        record = meter(record, pods, None, [card], at(now))
        read = UsageRecord.model_validate(record.wire())
        assert sum(counted(entry) for entry in read.spec.entries) == workers * (now - 10) * 1000
    of_one = [entry.rate for entry in record.spec.entries if entry.worker == 0]
    # The first prices are kept as they were; the last of them goes on.
    told = [rate.price_per_hour for rate in of_one if rate is not None]
    assert told == [f"0.{n:02d}" for n in range(1, each + 1)]


def test_a_record_is_named_by_job_uid_and_attempt() -> None:
    record = open_record(JobReference.of(a_job().metadata), Step.EVALUATE, 12, "finetune-system")
    assert record.metadata.name == record_name(JOB_UID, 12) == f"{JOB_UID}-12"
    assert record.metadata.namespace == "finetune-system"
    assert record.metadata.labels == {"finetune.dev/job-uid": JOB_UID}
    assert record.spec.wire() == {
        "job": {"namespace": "team", "name": "reviews", "uid": JOB_UID},
        "step": "evaluate",
        "attempt": 12,
        "revision": 0,
        "entries": [],
        "sealed": False,
        "lostSettled": False,
    }


@pytest.mark.parametrize("uid", ["", "A", "a_b", "a.b", "-a", "é", "a" * 64, "a\n"])
def test_a_uid_that_names_no_object_names_no_record(uid: str) -> None:
    with pytest.raises(
        RecordError, match=r"can't name a record: .* and begin with a letter or digit$"
    ):
        record_name(uid, 1)


@pytest.mark.parametrize("uid", ["0", "a" * 63, "a-1"])
def test_a_uid_that_names_an_object_names_a_record(uid: str) -> None:
    assert record_name(uid, 3) == f"{uid}-3"


# --- metering -------------------------------------------------------------------------------------


def test_a_look_at_a_living_pod_counts_up_to_now() -> None:
    pod = a_pod(bound=5, started_at=at(15), worker=3, placement=a_place(fake_gpu=True))
    record = meter(a_record(), [pod], None, CARDS, at(45), split_digest=SPLIT)
    assert record.spec.split_digest == SPLIT
    (entry,) = record.spec.entries
    assert entry.wire() == {
        "podUid": "pod-0",
        "segment": 0,
        "worker": 3,
        "node": "node-a",
        "device": "T4",
        "milliDevices": 1000,
        "since": said(5),
        "startedAt": said(15),
        "confirmed": True,
        "classes": [
            {"name": "pulling", "milliseconds": 10_000},
            {"name": "unknown", "milliseconds": 30_000},
        ],
        "rate": {"card": "cloud", "entry": "t4", "pricePerHour": "0.36", "currency": "USD"},
        "fakeGpu": True,
    }


def test_a_look_at_a_pod_that_ended_closes_its_entry() -> None:
    record = meter(a_record(), [ended(end=99.999)], None, CARDS, at(500))
    (entry,) = record.spec.entries
    assert (entry.until, entry.end_evidence, entry.confirmed) == (
        said(99.999),
        EndEvidence.CONTAINERS_TERMINATED,
        True,
    )
    assert counted(entry) == interval(entry) == 99_999


@pytest.mark.parametrize(
    "pod",
    [
        a_pod(bound=None),
        a_pod(placement=None),
        a_pod(attempt=2),
        a_pod(step=Step.PREPARE),
    ],
)
def test_what_is_not_bound_or_of_another_attempt_is_not_counted(pod: PodView) -> None:
    assert meter(a_record(), [pod], None, CARDS, at(100)).spec.entries == ()


def test_a_pod_that_is_not_bound_yet_keeps_its_gang_waiting() -> None:
    pods = [a_pod(started_at=at(10)), a_pod("pod-1", None, worker=1)]
    record = meter(a_record(), pods, None, CARDS, at(30))
    assert classes_of(record) == {"pulling": 10_000, "gangWait": 20_000}


def test_entries_stand_in_the_order_of_workers() -> None:
    pods = [ended("b", worker=1), ended("c", worker=0), ended("a", worker=1)]
    record = meter(a_record(), pods, None, CARDS, at(100))
    assert [entry.pod_uid for entry in record.spec.entries] == ["c", "a", "b"]


def test_a_pod_that_a_look_lacks_stays_as_it_is_recorded() -> None:
    pods = [a_pod(started_at=at(10)), a_pod("pod-1", started_at=at(10), worker=1)]
    before = meter(a_record(), pods, None, CARDS, at(50))
    after = meter(before, pods[:1], None, CARDS, at(60))
    assert classes_of(after) == {"pulling": 10_000, "unknown": 50_000}
    assert classes_of(after, "pod-1") == {"pulling": 10_000, "unknown": 40_000}
    assert meter(before, [], None, (), at(60)) == before


def test_marks_stay_known_after_the_pod_that_told_them_is_gone() -> None:
    told = some_marks(started_at=11, first_step_at=20, last_step_at=80, last_step=60)
    before = meter(a_record(), [a_pod(started_at=at(10))], told, CARDS, at(85))
    after = meter(before, [ended()], None, CARDS, at(100))
    assert after.spec.marks == told
    assert classes_of(after) == {
        "pulling": 10_000,
        "init": 10_000,
        "productive": 60_000,
        "teardown": 20_000,
    }


def test_a_first_digest_of_the_split_stays() -> None:
    other = "sha256:" + "1" * 64
    record = meter(a_record(), [], None, CARDS, at(0), split_digest=SPLIT)
    assert meter(record, [], None, CARDS, at(1), split_digest=other).spec.split_digest == SPLIT
    assert meter(record, [], None, CARDS, at(1)).spec.split_digest == SPLIT


def test_silence_past_the_stall_limit_is_stalled() -> None:
    told = some_marks(first_step_at=20, last_step_at=40)
    record = meter(a_record(), [ended()], told, CARDS, at(100), stall_seconds=59)
    assert classes_of(record)["stalled"] == 60_000
    record = meter(a_record(), [ended()], told, CARDS, at(100), stall_seconds=60)
    assert classes_of(record)["teardown"] == 60_000
    record = meter(a_record(), [ended(end=100.001)], told, CARDS, at(200), stall_seconds=60)
    assert classes_of(record)["stalled"] == 60_001
    record = meter(a_record(), [ended()], told, CARDS, at(100), stall_seconds=0)
    assert classes_of(record)["stalled"] == 60_000


# --- ends -----------------------------------------------------------------------------------------

# Keywords of `ended`, whose values are of several types.
SEEN_LAST: dict[str, Any] = {"end_evidence": EndEvidence.LAST_SEEN, "confirmed": False}
NODE_GONE: dict[str, Any] = {"end_evidence": EndEvidence.NODE_GONE, "confirmed": False}
EVICTED: dict[str, Any] = {"end_evidence": EndEvidence.DISRUPTION, "confirmed": False}
NO_EVIDENCE: dict[str, Any] = {"end_evidence": None, "confirmed": False}
ALIVE: dict[str, Any] = {"finished_at": None, "end_evidence": None}


@pytest.mark.parametrize(
    ("looks", "until"),
    [
        ([ended(end=50, **SEEN_LAST), ended(end=60, **SEEN_LAST)], 60),
        ([ended(end=50, **NODE_GONE), ended(end=60, **SEEN_LAST)], 50),
        ([ended(end=60, **NODE_GONE), ended(end=50, **SEEN_LAST)], 60),
        ([ended(end=50, **SEEN_LAST), ended(end=60, **NO_EVIDENCE)], 50),
        ([ended(end=60, **SEEN_LAST), ended(end=50)], 50),
        ([ended(end=50, **SEEN_LAST), ended(end=60)], 60),
        ([ended(end=50, **SEEN_LAST), ended(**ALIVE)], 50),
        ([ended(end=50), ended(**ALIVE)], 50),
        ([ended(end=50, end_evidence=EndEvidence.POD_GONE), ended(end=60, **EVICTED)], 50),
    ],
)
def test_the_best_evidence_of_an_end_holds_whichever_came_first(
    looks: list[PodView], until: float
) -> None:
    records = []
    for order in (looks, looks[::-1]):
        record = a_record()
        for look in order:
            record = meter(record, [look], None, CARDS, at(100))
        records.append(record)
        (entry,) = record.spec.entries
        assert entry.until == said(until)
        assert counted(entry) == interval(entry)
    assert records[0] == records[1]


def test_a_confirmed_end_never_changes() -> None:
    record = meter(a_record(), [ended(end=50)], None, CARDS, at(100))
    for other in (ended(end=40), ended(end=60), ended(end=60, **SEEN_LAST), ended(**ALIVE)):
        assert meter(record, [other], None, CARDS, at(200)) == record


def test_an_unreachable_pod_stays_open_and_says_so_until_it_is_reached_again() -> None:
    lost = ended(**ALIVE, confirmed=False)
    record = meter(a_record(), [lost], None, CARDS, at(50))
    (entry,) = record.spec.entries
    assert (entry.until, entry.confirmed) == (None, False)
    again = meter(record, [ended(**ALIVE)], None, CARDS, at(60))
    assert [entry.confirmed for entry in again.spec.entries] == [True]
    stale = meter(again, [lost], None, CARDS, at(55))
    assert stale == again
    both = meter(again, [lost], None, CARDS, at(60))
    assert [entry.confirmed for entry in both.spec.entries] == [False]
    assert meter(both, [ended(**ALIVE)], None, CARDS, at(60)) == both


def test_an_end_before_the_binding_is_an_empty_interval() -> None:
    record = meter(a_record(), [ended(bound=50, end=40)], None, CARDS, at(100))
    assert shape(record) == [(said(50), said(50), "0.36")]
    assert record.spec.entries[0].classes == ()


def test_a_binding_that_is_ahead_of_the_clock_counts_nothing_yet() -> None:
    record = meter(a_record(), [a_pod(bound=50)], None, CARDS, at(40))
    assert shape(record) == [(said(50), None, "0.36")]
    assert record.spec.entries[0].classes == ()


def test_a_clock_that_steps_back_takes_nothing_away() -> None:
    pod = a_pod(started_at=at(10))
    record = meter(a_record(), [pod], None, CARDS, at(50))
    assert meter(record, [pod], None, CARDS, at(20)) == record


def test_the_earliest_binding_and_start_hold() -> None:
    late = meter(a_record(), [ended(bound=20)], None, CARDS, at(100))
    early = ended(bound=5)
    joined = meter(late, [early], None, CARDS, at(100))
    assert joined == meter(a_record(), [early], None, CARDS, at(100))
    assert shape(joined) == [(said(5), said(100), "0.36")]
    assert classes_of(joined) == {"pulling": 10_000, "unknown": 85_000}


def test_a_start_that_is_seen_later_is_filled_in_and_stays() -> None:
    record = meter(a_record(), [a_pod()], None, CARDS, at(20))
    record = meter(record, [a_pod(started_at=at(10))], None, CARDS, at(30))
    assert classes_of(record) == {"pulling": 10_000, "unknown": 20_000}
    record = meter(record, [a_pod(finished_at=at(40))], None, CARDS, at(40))
    assert classes_of(record) == {"pulling": 10_000, "unknown": 30_000}


# --- prices ---------------------------------------------------------------------------------------


def test_an_entry_is_split_where_the_price_changes() -> None:
    card = a_card(a_price("0.50"), a_price("0.40", at(30)), a_price("0.30", at(100)))
    told = some_marks(first_step_at=20, last_step_at=90, checkpoint_milliseconds=7_000)
    record = meter(a_record(), [ended()], told, [card], at(100))
    assert shape(record) == [(said(0), said(30), "0.50"), (said(30), said(100), "0.40")]
    first, second = record.spec.entries
    assert (first.segment, second.segment) == (0, 1)
    assert (first.end_evidence, second.end_evidence) == (None, EndEvidence.CONTAINERS_TERMINATED)
    assert [counted(entry) for entry in (first, second)] == [30_000, 70_000]
    assert [share.wire() for share in first.classes] == [
        {"name": "pulling", "milliseconds": 10_000},
        {"name": "init", "milliseconds": 10_000},
        {"name": "productive", "milliseconds": 9_000},
        {"name": "checkpoint", "milliseconds": 1_000},
    ]
    assert [share.wire() for share in second.classes] == [
        {"name": "productive", "milliseconds": 54_000},
        {"name": "checkpoint", "milliseconds": 6_000},
        {"name": "teardown", "milliseconds": 10_000},
    ]


def test_only_the_last_segment_of_a_living_pod_is_open() -> None:
    card = a_card(a_price("0.50"), a_price("0.40", at(30)))
    lost = a_pod(started_at=at(10), confirmed=False)
    record = meter(a_record(), [lost], None, [card], at(31))
    assert shape(record) == [(said(0), said(30), "0.50"), (said(30), None, "0.40")]
    assert [entry.confirmed for entry in record.spec.entries] == [True, False]


def test_a_price_that_begins_at_the_look_begins_a_segment_in_the_next() -> None:
    card = a_card(a_price("0.50"), a_price("0.40", at(30)))
    pod = a_pod(started_at=at(10))
    record = meter(a_record(), [pod], None, [card], at(30))
    assert shape(record) == [(said(0), None, "0.50")]
    record = meter(record, [pod], None, [card], at(40))
    assert shape(record) == [(said(0), said(30), "0.50"), (said(30), None, "0.40")]


def test_a_copied_price_outlives_its_card_and_every_edit_of_it() -> None:
    pod = a_pod(started_at=at(10))
    record = meter(a_record(), [pod], None, CARDS, at(50))
    for cards in ((), (a_card(a_price("99")),), (a_card(a_price("99", at(20))),)):
        edited = meter(record, [pod], None, cards, at(70))
        assert shape(edited) == [(said(0), None, "0.36")]
        assert counted(edited.spec.entries[0]) == 70_000
    announced = (a_card(a_price("0.36"), a_price("0.72", at(60))),)
    edited = meter(record, [pod], None, announced, at(70))
    assert shape(edited) == [(said(0), said(60), "0.36"), (said(60), None, "0.72")]


def test_a_price_copied_at_the_binding_goes_on() -> None:
    record = meter(a_record(), [a_pod()], None, CARDS, at(0))
    assert shape(record) == [(said(0), None, "0.36")]
    record = meter(record, [a_pod()], None, (a_card(a_price("99")),), at(10))
    assert shape(record) == [(said(0), None, "0.36")]


def test_time_without_a_price_gets_one_from_the_date_on_that_a_card_states() -> None:
    pod = a_pod(started_at=at(10))
    record = meter(a_record(), [pod], None, (), at(50))
    assert shape(record) == [(said(0), None, None)]
    card = a_card(a_price("0.40", at(20)))
    record = meter(record, [pod], None, [card], at(60))
    assert shape(record) == [(said(0), said(20), None), (said(20), None, "0.40")]
    card = a_card(a_price("0.30", at(0)))
    record = meter(record, [pod], None, [card], at(70))
    assert shape(record) == [(said(0), said(20), "0.30"), (said(20), None, "0.40")]


def test_a_corrected_end_drops_the_segments_after_it() -> None:
    card = a_card(a_price("0.50"), a_price("0.40", at(30)), a_price("0.30", at(60)))
    record = meter(a_record(), [ended(end=80, **SEEN_LAST)], None, [card], at(100))
    assert [price for *_, price in shape(record)] == ["0.50", "0.40", "0.30"]
    shorter = meter(record, [ended(end=60)], None, [card], at(100))
    assert shape(shorter) == [(said(0), said(30), "0.50"), (said(30), said(60), "0.40")]
    longer = meter(record, [ended(end=90)], None, [card], at(100))
    assert shape(longer)[2] == (said(60), said(90), "0.30")


# --- the join -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Life:
    """What really happens to a pod, in seconds after noon; None: never."""

    bound: int | None
    started: int | None
    unreachable: int | None
    finished: int

    def seen(self, worker: int, now: int) -> PodView:
        """The pod as a look at ``now`` finds it."""
        bound = self.bound if self.bound is not None and self.bound <= now else None
        started = self.started if self.started is not None and self.started <= now else None
        pod = a_pod(
            f"pod-{worker}",
            bound,
            worker=worker,
            started_at=None if started is None else at(started),
        )
        if self.finished <= now and bound is not None:
            terminated = EndEvidence.CONTAINERS_TERMINATED
            return replace(pod, finished_at=at(self.finished), end_evidence=terminated)
        if self.unreachable is not None and self.unreachable + 5 <= now:
            seen = at(self.unreachable)
            return replace(
                pod, finished_at=seen, end_evidence=EndEvidence.LAST_SEEN, confirmed=False
            )
        lost = self.unreachable is not None and self.unreachable <= now
        return replace(pod, confirmed=not lost)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """A pod that ends by 100 s; it may never start, or be lost from sight."""
    bound = draw(st.one_of(st.none(), st.integers(0, 60)))
    if bound is None:
        return Life(None, None, None, 100)
    finished = draw(st.integers(bound, 100))
    started = draw(st.one_of(st.none(), st.integers(bound, finished)))
    unreachable = draw(st.one_of(st.none(), st.integers(bound, finished)))
    return Life(bound, started, unreachable, finished)


def told_by(now: int, first: int, pace: int, save: int) -> Marks | None:
    """What rank 0 tells at ``now``: a step every ``pace`` seconds, saved every third."""
    if now < first:
        return None
    steps = (now - first) // pace
    fields: dict[str, float] = {
        "started_at": first,
        "first_step_at": first,
        "last_step_at": first + steps * pace,
        "last_step": steps,
        "checkpoint_milliseconds": save * (steps // 3),
    }
    if steps >= 3:
        fields |= {"checkpoint_at": first + steps // 3 * 3 * pace, "checkpoint_step": steps}
    return some_marks(**fields)


@dataclass(frozen=True)
class World:
    """A gang's whole life, and the price of its devices over time."""

    gang: tuple[Life, ...]
    first_step: int
    pace: int
    save: int
    changes: tuple[int, ...]
    times: tuple[int, ...]

    def look(self, record: UsageRecord, now: int) -> UsageRecord:
        pods = [life.seen(worker, now) for worker, life in enumerate(self.gang)]
        told = told_by(now, self.first_step, self.pace, self.save)
        prices = [a_price(f"0.{index + 1}", at(s)) for index, s in enumerate(self.changes)]
        cards = [a_card(*prices)] if prices else []
        return meter(record, pods, told, cards, at(now), stall_seconds=30)

    def metered(self, times: Sequence[int]) -> UsageRecord:
        record = a_record()
        for now in times:
            record = self.look(record, now)
        return record


worlds = st.builds(
    World,
    gang=st.lists(lives(), min_size=1, max_size=3).map(tuple),
    first_step=st.integers(0, 120),
    pace=st.integers(1, 30),
    save=st.integers(0, 40_000),
    changes=st.lists(st.integers(-10, 110), max_size=4, unique=True).map(tuple),
    times=st.lists(st.integers(0, 150), max_size=6).map(lambda times: (*sorted(times), 200)),
)


@settings(max_examples=200)
@given(world=worlds, data=st.data())
def test_looks_in_any_order_and_any_number_give_the_same_record(
    world: World, data: st.DataObject
) -> None:
    repeated = [*world.times, *data.draw(st.lists(st.sampled_from(world.times), max_size=4))]
    order = data.draw(st.permutations(repeated))
    assert world.metered(order) == world.metered(world.times)


@given(world=worlds)
def test_a_look_that_is_taken_in_twice_changes_nothing(world: World) -> None:
    record = a_record()
    for now in world.times:
        record = world.look(record, now)
        assert world.look(record, now) == record


@given(world=worlds)
def test_entries_sum_to_what_the_pods_held(world: World) -> None:
    record = world.metered(world.times)
    for worker, life in enumerate(world.gang):
        entries = [e for e in record.spec.entries if e.pod_uid == f"pod-{worker}"]
        held = 0 if life.bound is None else (life.finished - life.bound) * 1000
        assert sum(interval(entry) for entry in entries) == held
        assert sum(counted(entry) for entry in entries) == held
        assert bool(entries) == (life.bound is not None)


@given(world=worlds)
def test_what_is_recorded_is_never_taken_back(world: World) -> None:
    record = a_record()
    for now in world.times:
        after = world.look(record, now)
        known = {(e.pod_uid, e.segment): e for e in after.spec.entries}
        guessed = {e.pod_uid for e in record.spec.entries if not e.confirmed}
        for entry in record.spec.entries:
            if entry.pod_uid in guessed:
                continue
            later = known[entry.pod_uid, entry.segment]
            assert (later.since, later.rate) == (entry.since, entry.rate)
            assert counted(later) >= counted(entry)
            if entry.until is not None:
                assert later.until == entry.until
        for entry in after.spec.entries:
            if entry.until is not None:
                assert counted(entry) == interval(entry)
        record = after


@given(world=worlds)
def test_splitting_at_prices_keeps_the_time_and_gives_the_price_of_each_part(
    world: World,
) -> None:
    record = world.metered(world.times)
    whole = replace(world, changes=()).metered(world.times)
    assert [counted(e) for e in whole.spec.entries] == [
        sum(counted(e) for e in record.spec.entries if e.pod_uid == pod.pod_uid)
        for pod in whole.spec.entries
    ]
    assert {uid: classes_of(record, uid) for uid in ("pod-0", "pod-1", "pod-2")} == {
        uid: classes_of(whole, uid) for uid in ("pod-0", "pod-1", "pod-2")
    }
    dated = sorted(zip(world.changes, range(1, 10), strict=False))
    expected = Fraction(0)
    for life in world.gang:
        for second in range(life.bound or 0, life.finished if life.bound is not None else 0):
            held = [tenths for effective, tenths in dated if effective <= second]
            expected += Fraction(held[-1] if held else 0, 10) / 3600
    cost = sum(
        (price_of(e.rate, e.milli_devices, counted(e)) for e in record.spec.entries if e.rate),
        start=Fraction(0),
    )
    assert cost == expected


told_marks = st.one_of(
    st.none(),
    st.builds(
        some_marks,
        started_at=st.integers(0, 100),
        first_step_at=st.integers(0, 100),
        last_step_at=st.integers(0, 100),
        checkpoint_at=st.integers(0, 100),
        resumed_from_step=st.integers(0, 9),
        resumed_from_attempt=st.integers(1, 9),
        last_step=st.integers(0, 9),
        checkpoint_step=st.integers(0, 9),
        checkpoint_milliseconds=st.integers(0, 9),
        evaluation_milliseconds=st.integers(0, 9),
    ),
    st.just(Marks()),
)


@given(one=told_marks, two=told_marks, three=told_marks)
def test_marks_are_joined_without_asking_which_came_first(
    one: Marks | None, two: Marks | None, three: Marks | None
) -> None:
    assert join_marks(one, two) == join_marks(two, one)
    assert join_marks(join_marks(one, two), three) == join_marks(one, join_marks(two, three))
    assert join_marks(one, one) == (None if one == Marks() else one)


def test_marks_join_to_the_earliest_beginnings_and_the_farthest_of_the_rest() -> None:
    small = some_marks(
        started_at=1,
        first_step_at=2,
        last_step_at=3,
        checkpoint_at=4,
        resumed_from_step=1,
        resumed_from_attempt=1,
        last_step=1,
        checkpoint_step=1,
        checkpoint_milliseconds=1,
        evaluation_milliseconds=1,
    )
    large = some_marks(
        started_at=11,
        first_step_at=12,
        last_step_at=13,
        checkpoint_at=14,
        resumed_from_step=2,
        resumed_from_attempt=2,
        last_step=2,
        checkpoint_step=2,
        checkpoint_milliseconds=2,
        evaluation_milliseconds=2,
    )
    begun = {"started_at": said(1), "first_step_at": said(2)}
    assert join_marks(small, large) == large.model_copy(update=begun)
    assert join_marks(Marks(), small) == join_marks(None, small) == small
    assert join_marks(None, None) is None
    assert join_marks(Marks(), None) is None


# --- sealing and settling -------------------------------------------------------------------------

WORKED = some_marks(first_step_at=20, last_step_at=90, last_step=70)


def test_a_sealed_record_states_its_cost_and_never_changes() -> None:
    pods = [ended(), ended("pod-1", worker=1, bound=50)]
    sealed = seal(a_record(), pods, WORKED, CARDS, at(150))
    assert sealed.spec.sealed
    assert not sealed.spec.lost_settled
    assert sealed.spec.cost == "0.015000"
    assert meter(sealed, [ended(end=120)], None, (), at(300), split_digest=SPLIT) == sealed
    assert seal(sealed, [a_pod()], None, (), at(300)) == sealed


def test_sealing_takes_the_last_look_in() -> None:
    record = meter(a_record(), [a_pod(started_at=at(10))], None, CARDS, at(50))
    sealed = seal(record, [ended()], WORKED, CARDS, at(150), stall_seconds=9)
    metered = meter(record, [ended()], WORKED, CARDS, at(150), stall_seconds=9)
    assert classes_of(sealed)["stalled"] == 10_000
    update = {"sealed": True, "cost": "0.010000"}
    assert sealed.spec == metered.spec.model_copy(update=update)


def test_many_short_attempts_cost_what_they_cost() -> None:
    cards = [a_card(a_price("0.35"))]
    pod = ended(end=37, placement=a_place(milli_devices=8000))
    sealed = seal(a_record(), [pod], None, cards, at(37))
    assert sealed.spec.cost == "0.028778"
    (entry,) = sealed.spec.entries
    assert entry.rate is not None
    cost = price_of(entry.rate, entry.milli_devices, counted(entry))
    assert cost == Fraction(37 * 8 * 35, 3600 * 100)


@pytest.mark.parametrize(
    ("pods", "named"),
    [
        ([a_pod(started_at=at(1))], "pod-0"),
        ([ended(), a_pod("pod-1")], "pod-1 "),
        ([ended(placement=None)], "pod-0"),
        ([a_pod("b"), ended("c"), a_pod("a", placement=None)], "a, b "),
    ],
)
def test_nothing_is_sealed_while_a_pod_may_hold_devices(pods: list[PodView], named: str) -> None:
    with pytest.raises(RecordError, match=f"record {JOB_UID}-1 .* pod {named}"):
        seal(a_record(), pods, None, CARDS, at(100))


def test_a_recorded_pod_that_vanished_without_an_end_is_not_sealed() -> None:
    record = meter(a_record(), [a_pod()], None, CARDS, at(50))
    with pytest.raises(RecordError, match="pod-0"):
        seal(record, [], None, CARDS, at(100))


def test_pods_of_other_attempts_and_unbound_ones_hinder_no_sealing() -> None:
    pods = [ended(), a_pod("pod-1", None), a_pod("pod-2", attempt=2, placement=None)]
    assert seal(a_record(), pods, None, CARDS, at(100)).spec.cost == "0.010000"


def test_a_guessed_end_is_sealed_as_one() -> None:
    sealed = seal(a_record(), [ended(**SEEN_LAST)], None, CARDS, at(100))
    assert [entry.confirmed for entry in sealed.spec.entries] == [False]
    assert sealed.spec.cost == "0.010000"


def test_what_has_no_price_costs_no_number() -> None:
    assert seal(a_record(), [ended()], None, (), at(100)).spec.cost is None
    other = ended("pod-1", worker=1, placement=a_place(device="A100"))
    assert seal(a_record(), [ended(), other], None, CARDS, at(100)).spec.cost == "0.010000"
    euros = a_card(a_price("1", gpu_type="A100"), name="eu", currency="EUR")
    record = seal(a_record(), [ended(), other], None, [*CARDS, euros], at(100))
    assert record.spec.cost is None
    assert seal(a_record(), [], None, CARDS, at(100)).spec.cost == "0.000000"


@pytest.mark.parametrize(
    ("kept", "productive", "lost"),
    [
        (Fraction(1), 70_000, 0),
        (Fraction(0), 0, 70_000),
        (Fraction(1, 2), 35_000, 35_000),
        (Fraction(2, 3), 46_667, 23_333),
        (Fraction(3), 70_000, 0),
        (Fraction(-1), 0, 70_000),
    ],
)
def test_work_that_was_not_kept_is_lost(kept: Fraction, productive: int, lost: int) -> None:
    sealed = seal(a_record(), [ended()], WORKED, CARDS, at(100))
    before = classes_of(sealed)
    settled = settle_lost(sealed, kept)
    assert settled.spec.lost_settled
    after = classes_of(settled)
    assert (after.get("productive", 0), after.get("lost", 0)) == (productive, lost)
    others = {name: ms for name, ms in before.items() if name != "productive"}
    assert {n: ms for n, ms in after.items() if n not in ("productive", "lost")} == others
    assert all(s.milliseconds for e in settled.spec.entries for s in e.classes)


@given(world=worlds, kept=st.fractions(0, 1), again=st.fractions(0, 1))
def test_settling_moves_time_once_and_changes_nothing_else(
    world: World, kept: Fraction, again: Fraction
) -> None:
    sealed = seal(world.metered(world.times), [], None, (), at(200))
    settled = settle_lost(sealed, kept)
    assert settle_lost(settled, again) == settled

    def without_classes(record: UsageRecord) -> list[object]:
        return [entry.model_copy(update={"classes": ()}) for entry in record.spec.entries]

    assert without_classes(settled) == without_classes(sealed)
    assert [counted(e) for e in settled.spec.entries] == [counted(e) for e in sealed.spec.entries]
    entries = settled.spec.entries
    final = {"entries": sealed.spec.entries, "lost_settled": False}
    assert settled.spec.model_copy(update=final) == sealed.spec
    for entry in entries:
        names = [share.name for share in entry.classes]
        assert names == sorted(names, key=list(TimeClass).index)


def test_only_a_sealed_record_is_settled() -> None:
    with pytest.raises(RecordError, match=f"{JOB_UID}-1 is settled only once"):
        settle_lost(a_record(), Fraction(1))


# --- correcting -----------------------------------------------------------------------------------


def lost_and_sealed(kept: Fraction | None = Fraction(1, 2), **fields: Any) -> UsageRecord:
    """Two workers' record, the second of which was on a node that fell silent."""
    pods = [ended("pod-0", end=100), ended("pod-1", end=60, worker=1, **NODE_GONE, **fields)]
    record = seal(a_record(), pods, WORKED, CARDS, at(100))
    return record if kept is None else settle_lost(record, kept)


@pytest.mark.parametrize("end", [40, 60, 250])
def test_an_end_that_is_known_better_is_written_as_the_next_revision(end: float) -> None:
    sealed = lost_and_sealed()
    told = ended("pod-1", end=end, worker=1)
    corrected = correct(sealed, [ended("pod-0", end=100), told], CARDS, at(300))
    assert corrected.metadata.name == f"{sealed.metadata.name}-r1"
    assert (corrected.spec.revision, corrected.spec.sealed) == (1, True)
    first, second = corrected.spec.entries
    assert first == sealed.spec.entries[0]
    assert (second.until, second.confirmed) == (said(end), True)
    assert second.end_evidence is EndEvidence.CONTAINERS_TERMINATED
    assert counted(second) == interval(second)
    assert corrected.spec.cost == amount_text(Fraction(36, 360_000) * (100 + Fraction(end)))
    # Once more it is known no better, and a later word changes nothing that was confirmed.
    again = [told, ended("pod-0", end=400), ended("pod-1", end=500, worker=1)]
    assert correct(corrected, again, CARDS, at(900)) == corrected


def test_a_correction_of_a_settled_record_loses_the_same_share_of_the_work() -> None:
    corrected = correct(lost_and_sealed(), [ended("pod-1", end=250, worker=1)], CARDS, at(300))
    assert corrected.spec.lost_settled
    classes = classes_of(corrected, "pod-1")
    assert classes["lost"] == classes["productive"] > 0
    open_yet = correct(lost_and_sealed(None), [ended("pod-1", end=250, worker=1)], CARDS, at(300))
    assert not open_yet.spec.lost_settled
    assert settle_lost(open_yet, Fraction(1, 2)) == corrected


@pytest.mark.parametrize(
    "pod",
    [
        ended("pod-1", end=250, worker=1, **NODE_GONE),
        ended("pod-1", end=250, worker=1, **EVICTED),
        ended("pod-1", worker=1, **ALIVE),
        ended("pod-0", end=250),
        ended("pod-7", end=250),
    ],
)
def test_what_says_nothing_better_corrects_nothing(pod: PodView) -> None:
    sealed = lost_and_sealed()
    assert correct(sealed, [pod], CARDS, at(300)) is sealed


def test_a_record_that_is_open_is_metered_and_not_corrected() -> None:
    record = meter(a_record(), [ended("pod-1", end=60, **NODE_GONE)], WORKED, CARDS, at(100))
    assert correct(record, [ended("pod-1", end=250)], CARDS, at(300)) is record


def test_a_price_that_was_copied_holds_for_what_a_correction_adds() -> None:
    dearer = (a_card(a_price("36")),)
    corrected = correct(lost_and_sealed(), [ended("pod-1", end=250, worker=1)], dearer, at(300))
    rates = {entry.rate.price_per_hour for entry in corrected.spec.entries if entry.rate}
    assert rates == {"0.36"}


def test_of_an_attempts_records_the_highest_revision_counts() -> None:
    sealed = lost_and_sealed()
    corrected = correct(sealed, [ended("pod-1", end=250, worker=1)], CARDS, at(300))
    other = a_record(attempt=2)
    for records in ([sealed, other, corrected], [corrected, other, sealed]):
        assert set(map(_name, latest(records))) == {_name(corrected), _name(other)}


def _name(record: UsageRecord) -> str:
    return record.metadata.name
