"""Use whose witness is gone is closed on the best evidence: once, and never made smaller."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import Marks, Step, Termination
from finetune_api.usage import EndEvidence, JobReference, UsageRecord
from finetune_operator.cost.ledger import totals
from finetune_operator.cost.orphans import Closing, close_books, vanished
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.records import meter, says_more, seal, settle_lost
from unit.builders_cost import (
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
JOB = JobReference.of(a_job().metadata)
NAMESPACE = "finetune-system"


def ended(uid: str = "pod-0", end: float = 100, **fields: Any) -> PodView:
    """A pod that started 10 s after it was bound, and whose containers have terminated."""
    given = {
        "started_at": at(10),
        "finished_at": at(end),
        "end_evidence": EndEvidence.CONTAINERS_TERMINATED,
        "exit_code": 137,
        **fields,
    }
    return a_pod(uid, **given)


def alive(uid: str = "pod-0", **fields: Any) -> PodView:
    return a_pod(uid, **{"started_at": at(10), **fields})


def metered(*pods: PodView, now: float = 30, before: UsageRecord | None = None) -> UsageRecord:
    return meter(before or a_record(), pods, None, CARDS, at(now))


def said_by(pod: PodView, code: int, **seconds: float) -> PodView:
    """The pod with the message that it left."""
    told = Termination(
        step=pod.step,
        attempt=pod.attempt,
        worker=pod.worker,
        exit_code=code,
        marks=some_marks(**seconds),
    )
    return replace(pod, exit_code=code, termination=told)


# --- pods that nobody saw end ---------------------------------------------------------------------


def test_a_pod_that_is_not_listed_ended_when_it_was_last_seen() -> None:
    record = metered(alive(worker=3), now=30)
    (gone,) = vanished(record, set(), at(500), last_seen_at=at(90))
    assert gone == PodView(
        uid="pod-0",
        step=Step.TRAIN,
        attempt=1,
        worker=3,
        created_at=at(0),
        released=True,
        bound_at=at(0),
        started_at=at(10),
        finished_at=at(90),
        end_evidence=EndEvidence.POD_GONE,
        confirmed=False,
        kept=False,
    )
    (entry,) = metered(gone, now=500, before=record).spec.entries
    assert (entry.until, entry.end_evidence, entry.confirmed) == (
        said(90),
        EndEvidence.POD_GONE,
        False,
    )
    assert counted(entry) == interval(entry) == 90_000


@pytest.mark.parametrize(
    ("last_seen", "now", "until"),
    [
        (None, 500, 30),  # what is recorded is proof too
        (20, 500, 30),
        (31, 500, 31),
        (600, 500, 500),  # nobody was seen later than now
        (600, 20, 30),  # a clock that goes back takes nothing away
    ],
)
def test_the_last_proof_of_life_is_the_latest_there_is(
    last_seen: float | None, now: float, until: float
) -> None:
    seen_at = None if last_seen is None else at(last_seen)
    (gone,) = vanished(metered(alive(), now=30), set(), at(now), last_seen_at=seen_at)
    assert gone.finished_at == at(until)


def test_a_pod_that_is_listed_has_not_vanished() -> None:
    record = metered(alive(), alive("pod-1", worker=1))
    (gone,) = vanished(record, {"pod-0", "other"}, at(500))
    assert gone.uid == "pod-1"
    assert vanished(record, {"pod-0", "pod-1"}, at(500)) == ()


def test_an_end_that_is_recorded_is_told_again_as_it_is() -> None:
    record = metered(alive(), now=30)
    closed = metered(*vanished(record, set(), at(40), last_seen_at=at(35)), now=40, before=record)
    assert says_more(record, closed)
    (gone,) = vanished(closed, set(), at(900), last_seen_at=at(800))
    assert (gone.finished_at, gone.end_evidence, gone.confirmed) == (
        at(35),
        EndEvidence.POD_GONE,
        False,
    )
    again = metered(gone, now=900, before=closed)
    assert again == closed
    assert not says_more(closed, again)
    (seen,) = vanished(metered(ended(end=50)), set(), at(900))
    assert (seen.finished_at, seen.confirmed) == (at(50), True)


def test_of_a_sealed_record_nothing_vanishes() -> None:
    record = seal(a_record(), [ended()], None, CARDS, at(100))
    assert vanished(record, set(), at(500)) == ()


def test_a_price_that_was_copied_goes_on_to_the_end_wherever_the_pod_was() -> None:
    changed = (a_card(a_price("0.36"), a_price("0.72", at(20)), a_price("9", at(60))),)
    record = meter(a_record(), [alive()], None, changed, at(30))
    elsewhere = (*changed, a_card(a_price("100", gpu_type="T4", effective=at(40)), name="other"))
    pods = vanished(record, set(), at(500), last_seen_at=at(100))
    sealed = seal(record, pods, None, elsewhere, at(500))
    assert [(e.since, e.until, e.rate and e.rate.price_per_hour) for e in sealed.spec.entries] == [
        (said(0), said(20), "0.36"),
        (said(20), said(100), "0.72"),
    ]
    assert sealed.spec.cost == "0.018000"


def test_what_had_no_price_when_its_pod_was_there_gets_none_afterwards() -> None:
    record = meter(a_record(), [alive(placement=a_place(device="H100"))], None, CARDS, at(30))
    later = (a_card(a_price("9", gpu_type="H100")),)
    sealed = seal(record, vanished(record, set(), at(90)), None, later, at(90))
    assert [entry.rate for entry in sealed.spec.entries] == [None]


def test_a_better_end_stands_against_that_of_a_pod_that_came_back() -> None:
    record = metered(alive(), now=30)
    closed = metered(*vanished(record, set(), at(40)), now=40, before=record)
    back = metered(ended(end=80), now=90, before=closed)
    (entry,) = back.spec.entries
    assert (entry.until, entry.confirmed) == (said(80), True)


looks = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 200), st.sets(st.integers(0, 2))),
    min_size=1,
    max_size=8,
)
"""Each: a clock that may go back, and which of three pods are listed; what is seen later varies."""


@given(looks, st.sets(st.integers(0, 2)), st.integers(0, 200))
def test_whatever_vanishes_is_counted_once_and_nothing_shrinks(
    seen: list[tuple[int, int, set[int]]], finished: set[int], last_seen: int
) -> None:
    record = a_record()
    for price_changes, now, listed in seen:
        cards = (a_card(*(a_price(str(n + 1), at(n * 50)) for n in range(price_changes + 1))),)
        pods = [
            (ended if n in finished and now >= 100 else alive)(f"pod-{n}", worker=n, bound_at=at(n))
            for n in sorted(listed)
        ]
        uids = {pod.uid for pod in pods}
        gone = vanished(record, uids, at(now), last_seen_at=at(last_seen))
        assert not uids & {pod.uid for pod in gone}
        after = meter(record, [*pods, *gone], None, cards, at(now))
        assert meter(after, [*pods, *gone], None, cards, at(now)) == after
        for uid in {entry.pod_uid for entry in record.spec.entries} - uids:
            assert sum(classes_of(after, uid).values()) >= sum(classes_of(record, uid).values())
        record = after
    everyone = vanished(record, set(), at(300))
    sealed = seal(record, everyone, None, CARDS, at(300))
    assert {entry.pod_uid for entry in sealed.spec.entries} == {pod.uid for pod in everyone}
    assert all(counted(entry) == interval(entry) for entry in sealed.spec.entries)
    for uid in {pod.uid for pod in everyone}:
        own = [entry for entry in sealed.spec.entries if entry.pod_uid == uid]
        assert all(one.until == two.since for one, two in pairwise(own))
        assert sum(map(counted, own)) >= sum(classes_of(record, uid).values())
    assert vanished(sealed, set(), at(900)) == ()
    assert meter(sealed, everyone, None, CARDS, at(900)) == sealed


# --- jobs that are gone ---------------------------------------------------------------------------


def closing(
    pods: Sequence[PodView], records: Sequence[UsageRecord] = (), now: float = 200
) -> Closing:
    return close_books(JOB, records, pods, CARDS, at(now), NAMESPACE)


def test_the_use_of_a_job_that_is_gone_is_recorded_sealed_and_settled() -> None:
    done = closing([ended(), ended("pod-1", 60, worker=1)])
    (record,) = done.records
    assert (record.metadata.name, record.metadata.namespace) == (f"{JOB.uid}-1", NAMESPACE)
    assert record.spec.job == JOB
    assert (record.spec.step, record.spec.attempt) == (Step.TRAIN, 1)
    assert (record.spec.sealed, record.spec.lost_settled) == (True, True)
    assert record.spec.cost == "0.016000"
    assert done.free == {"pod-0", "pod-1"}


def test_work_since_the_last_checkpoint_is_lost_with_the_job() -> None:
    pod = said_by(
        ended(),
        75,
        first_step_at=20,
        last_step_at=80,
        last_step=60,
        checkpoint_step=45,
    )
    (record,) = closing([pod]).records
    assert classes_of(record) == {
        "pulling": 10_000,
        "init": 10_000,
        "productive": 45_000,
        "lost": 15_000,
        "teardown": 20_000,
    }


@pytest.mark.parametrize(
    ("pod", "lost"),
    [
        (said_by(ended(), 70, first_step_at=20, last_step_at=80, last_step=60), 60_000),
        (said_by(ended(), 0, first_step_at=20, last_step_at=80, last_step=60), 0),
        (ended(step=Step.EVALUATE), 90_000),
        (ended(step=Step.EVALUATE, exit_code=0), 0),
    ],
)
def test_without_a_checkpoint_all_work_is_lost_that_was_not_finished(
    pod: PodView, lost: int
) -> None:
    (record,) = closing([pod]).records
    assert classes_of(record).get("lost", 0) == lost


def test_an_open_record_is_gone_on_with_and_its_marks_are_kept() -> None:
    marks = some_marks(first_step_at=20, last_step_at=60, last_step=40, checkpoint_step=40)
    before = meter(a_record(), [alive()], marks, CARDS, at(70))
    (record,) = closing([ended()], [before]).records
    assert (record.spec.marks, record.spec.lost_settled) == (marks, True)
    assert classes_of(record)["productive"] == 40_000
    assert "lost" not in classes_of(record)


def test_a_record_without_its_pods_is_closed_on_what_it_says() -> None:
    done = closing([], [metered(alive(), now=30)])
    (record,) = done.records
    assert record.spec.sealed
    assert [entry.until for entry in record.spec.entries] == [said(30)]
    assert done.free == set()


def test_an_attempt_with_a_pod_that_may_still_hold_devices_waits() -> None:
    pods = [ended(), alive("pod-1", worker=1)]
    done = closing(pods)
    (record,) = done.records
    assert not record.spec.sealed
    assert done.free == set()
    waiting = closing(pods, [record], now=300)
    assert waiting == Closing()
    over = closing([ended(), ended("pod-1", 250, worker=1)], [record], now=300)
    assert [one.spec.sealed for one in over.records] == [True]
    assert over.free == {"pod-0", "pod-1"}


def test_what_never_held_anything_is_let_go_without_a_record() -> None:
    gated = a_pod("gated", None, released=False, placement=None)
    deleted = a_pod("deleted", None, finished_at=at(5), placement=None)
    coming = a_pod("coming", None, placement=None)
    assert closing([gated, deleted, coming]) == Closing(free=frozenset({"gated", "deleted"}))


def test_each_attempt_is_closed_for_itself() -> None:
    pods = [ended(step=Step.PREPARE), alive("pod-1", attempt=2)]
    done = closing(pods)
    assert [(r.spec.attempt, r.spec.sealed) for r in done.records] == [(1, True), (2, False)]
    assert done.free == {"pod-0"}


def test_closing_again_after_any_write_ends_alike_and_writes_nothing_twice() -> None:
    pods = [ended(), ended("pod-1", 60, worker=1), ended("pod-2", 90, attempt=2)]
    whole = closing(pods)
    for written in range(len(whole.records) + 1):
        again = closing(pods, whole.records[:written], now=900)
        assert again.records == whole.records[written:]
        assert again.free == whole.free
    after = [pod for pod in pods if pod.uid not in whole.free]
    assert closing(after, whole.records) == Closing()
    assert totals(whole.records, "USD", at(900)).gpu_milliseconds == 250_000


def test_a_sealed_record_is_only_settled() -> None:
    marks = some_marks(first_step_at=20, last_step_at=80, last_step=60, checkpoint_step=30)
    sealed = seal(a_record(), [ended()], marks, CARDS, at(100))
    (record,) = closing([], [sealed]).records
    assert record.spec.cost == sealed.spec.cost
    assert classes_of(record)["lost"] == 30_000
    settled = settle_lost(sealed, Fraction(1))
    assert closing([], [settled]) == Closing()


def test_marks_that_say_nothing_lose_nothing_but_time_without_a_name() -> None:
    (record,) = closing([replace(ended(), termination=None)]).records
    assert record.spec.marks in (None, Marks())
    assert classes_of(record) == {"pulling": 10_000, "unknown": 90_000}


def test_a_pod_on_a_silent_node_is_kept_until_it_tells_its_end() -> None:
    lost = ended(
        "pod-1", 60, worker=1, end_evidence=EndEvidence.NODE_GONE, confirmed=False, silent=True
    )
    first = closing([ended(), lost])
    (record,) = first.records
    assert (record.spec.sealed, record.spec.lost_settled) == (True, True)
    assert first.free == {"pod-0"}
    # Its node is back: it goes on until the kubelet has ended it.
    assert closing([alive("pod-1", worker=1)], first.records, now=300) == Closing()
    over = closing([ended("pod-1", 320, worker=1)], first.records, now=330)
    (corrected,) = over.records
    assert (corrected.spec.revision, over.free) == (1, {"pod-1"})
    sums = totals([record, corrected], "USD", at(400))
    assert sums.gpu_milliseconds == 100_000 + 320_000
    again = closing([ended("pod-1", 320, worker=1)], [record, corrected], now=340)
    assert again == Closing(free=frozenset({"pod-1"}))
