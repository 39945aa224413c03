"""A finished job is deleted at its moment: not sooner, not before its books, and no other job."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finetune_api.job import FineTuneJob
from finetune_api.phases import ConditionType, Phase
from finetune_api.report import FailureClass, Step
from finetune_api.times import format_time, parse_time
from finetune_api.usage import UsageRecord
from finetune_operator.core.conditions import is_true
from finetune_operator.core.decision import Decision, WriteRecord
from finetune_operator.core.observed import Observed
from finetune_operator.core.reconcile import reconcile
from harness.scripted import START, Fault, ScriptedEngine, World, a_card, a_job, drive

TTL = 600
LATER = START + timedelta(days=1000)
TOOK_THE_CLAIM = {"size": "1Gi", "whenDeleted": "Delete"}
ELSEWHERE = {"uri": "s3://models/reviews"}


def with_ttl(seconds: int | None) -> dict[str, object]:
    return {} if seconds is None else {"policy": {"ttlSecondsAfterFinished": seconds}}


@cache
def over(*, passed: bool = True) -> Observed:
    """A look at a job that is over and has nothing left to do."""
    world = World(job=a_job(), cards=(a_card(),), passed=passed, deletes_jobs=True)
    asyncio.run(drive(world))
    return asyncio.run(ScriptedEngine(world).look())


def completed_at(observed: Observed) -> datetime:
    assert observed.job.status is not None
    assert observed.job.status.completion_time is not None
    return parse_time(observed.job.status.completion_time)


def seen(observed: Observed, **spec: object) -> Observed:
    """The same look at a job whose manifest says more."""
    job = observed.job
    changed = FineTuneJob.model_validate({**a_job(**spec).wire(), "status": job.status})
    return replace(observed, job=changed.model_copy(update={"metadata": job.metadata}))


def told(decision: Decision) -> list[str]:
    return [event.message for event in decision.events if event.reason == "TTLExpired"]


@given(
    ttl=st.integers(0, 315_360_000),
    # A look long after, and one by a clock that is behind the one that wrote the end.
    milliseconds=st.integers(-10_000_000, 400_000_000_000),
    passed=st.booleans(),
)
@example(ttl=0, milliseconds=0, passed=True)
@example(ttl=TTL, milliseconds=TTL * 1000, passed=False)
@example(ttl=TTL, milliseconds=TTL * 1000 - 1, passed=True)
def test_it_is_deleted_once_its_time_is_over_and_looked_at_again_then_and_no_sooner(
    ttl: int, milliseconds: int, *, passed: bool
) -> None:
    observed = seen(over(passed=passed), **with_ttl(ttl))
    now = completed_at(observed) + timedelta(milliseconds=milliseconds)
    left = ttl - milliseconds / 1000
    decision = reconcile(observed, now)
    assert decision.finished
    assert decision.expired == (left <= 0)
    # Once a day at least, lest a clock that is set right meanwhile goes unnoticed.
    again = None if left <= 0 else pytest.approx(min(max(0.2, left), 86_400))
    assert decision.look_again_seconds == again
    assert len(told(decision)) == decision.expired
    assert not decision.actions
    assert not decision.write_status


@pytest.mark.parametrize("phase", [Phase.COMPLETE, Phase.FAILED])
async def test_between_the_end_and_the_deletion_nobody_looks(phase: Phase) -> None:
    world = World(
        job=a_job(**with_ttl(TTL)),
        cards=(a_card(),),
        passed=phase is Phase.COMPLETE,
        deletes_jobs=True,
    )
    decision = await drive(world)
    assert decision.status.phase is phase
    assert not decision.expired
    looks: list[datetime] = []

    def deleted(decision: Decision) -> bool:
        looks.append(world.now)
        return decision.expired

    await drive(world, until=deleted)
    assert len(looks) == 2
    assert decision.status.completion_time is not None
    assert looks[-1] == parse_time(decision.status.completion_time) + timedelta(seconds=TTL)
    assert [event.reason for event in world.events].count("TTLExpired") == 1


@pytest.mark.parametrize("ttl", [0, TTL])
@pytest.mark.parametrize("step", [Step.PREPARE, Step.TRAIN])
async def test_a_job_that_is_not_over_stays_whatever_the_time(ttl: int, step: Step) -> None:
    """It is suspended while a step runs; of a prepare step nothing is left to be settled."""
    world = World(job=a_job(**with_ttl(ttl)), cards=(a_card(),), deletes_jobs=True)

    def runs(decision: Decision) -> bool:
        assert not decision.expired
        rows = decision.status.attempts
        return bool(rows) and (rows[-1].step, rows[-1].state) == (step, "Running")

    await drive(world, until=runs)
    world.job = a_job(suspend=True, **with_ttl(ttl))
    status = (await drive(world)).status
    assert status.phase is Phase.SUSPENDED
    # Whatever else its status says.
    world.status = status.model_copy(update={"completion_time": format_time(START)})
    world.now = LATER
    decision = await drive(world)
    assert (decision.expired, decision.look_again_seconds) == (False, None)


@pytest.mark.parametrize(
    ("what", "expired"),
    [
        ("as it is", True),
        ("without a time", False),
        ("being deleted", False),
        ("of an engine that has no such object", False),
    ],
)
def test_only_a_job_that_says_so_is_deleted_and_only_by_an_engine_that_can(
    what: str, *, expired: bool
) -> None:
    observed = seen(over(), **with_ttl(None if what == "without a time" else TTL))
    if what == "being deleted":
        leaving = observed.job.metadata.model_copy(
            update={"deletion_timestamp": format_time(LATER)}
        )
        observed = replace(observed, job=observed.job.model_copy(update={"metadata": leaving}))
    if what.startswith("of an engine"):
        observed = replace(observed, engine=replace(observed.engine, deletes_jobs=False))
    decision = reconcile(observed, LATER)
    assert decision.finished
    assert (decision.expired, decision.look_again_seconds) == (expired, None)


@pytest.mark.parametrize(("later", "expired"), [(10, True), (10 * TTL, False), (None, False)])
def test_what_is_said_of_its_time_after_the_end_holds(later: int | None, *, expired: bool) -> None:
    observed = seen(over(), **with_ttl(TTL))
    now = completed_at(observed) + timedelta(seconds=TTL - 1)
    assert not reconcile(observed, now).expired
    assert reconcile(seen(observed, **with_ttl(later)), now).expired == expired


def _open(record: UsageRecord, **update: object) -> UsageRecord:
    return record.model_copy(update={"spec": record.spec.model_copy(update=update)})


@pytest.mark.parametrize(
    "still", [{"sealed": False, "lost_settled": False}, {"lost_settled": False}]
)
def test_it_is_not_deleted_before_its_records_are_sealed_and_settled_where_they_are_stored(
    still: Mapping[str, object],
) -> None:
    observed = seen(over(), **with_ttl(0))
    first, *rest = observed.records
    decision = reconcile(replace(observed, records=(_open(first, **still), *rest)), LATER)
    assert [type(action) for action in decision.actions] == [WriteRecord]
    assert not decision.expired
    assert not told(decision)
    assert decision.look_again_seconds == pytest.approx(0.2)


async def test_it_is_not_deleted_before_its_status_is_written_and_its_pods_are_let_go() -> None:
    world = World(job=a_job(**with_ttl(0)), cards=(a_card(),), deletes_jobs=True)
    looks: list[Decision] = []

    def deleted(decision: Decision) -> bool:
        looks.append(decision)
        return decision.expired

    await drive(world, until=deleted)
    assert world.status is not None
    assert not looks[-1].write_status
    assert not looks[-1].actions
    assert world.forgotten == set(world.gangs)
    # Kept once more, and looked at after its time.
    world.forgotten.clear()
    decision = await drive(world, until=lambda _: True)
    assert decision.actions
    assert not decision.expired
    assert not told(decision)


def test_it_is_not_deleted_while_a_record_is_open_that_the_status_knows_nothing_of() -> None:
    observed = seen(over(), **with_ttl(0))
    status = observed.job.status
    assert status is not None
    unlisted = observed.job.model_copy(
        update={"status": status.model_copy(update={"attempts": status.attempts[1:]})}
    )
    first, *rest = observed.records
    records = (_open(first, sealed=False, lost_settled=False), *rest)
    assert not reconcile(replace(observed, job=unlisted, records=records), LATER).expired
    assert reconcile(replace(observed, job=unlisted), LATER).expired


@pytest.mark.parametrize("fails", [None, Step.TRAIN, Step.EVALUATE])
@pytest.mark.parametrize("output", [{}, ELSEWHERE])
@pytest.mark.parametrize("storage", [{"size": "1Gi"}, {"claim": "mine"}, TOOK_THE_CLAIM])
async def test_a_trained_model_that_was_to_go_elsewhere_and_did_not_is_not_destroyed(
    storage: Mapping[str, object], output: Mapping[str, object], fails: Step | None
) -> None:
    attempt = {Step.TRAIN: 2, Step.EVALUATE: 3}.get(fails) if fails else None
    fault = Fault(attempt or 0, 0, 3, exit_code=64, failure=FailureClass.USER_ERROR)
    world = World(
        job=a_job(storage=storage, output=output, **with_ttl(TTL)),
        faults=(fault,) if attempt else (),
        deletes_jobs=True,
    )
    status = (await drive(world)).status
    assert status.phase is (Phase.COMPLETE if fails is None else Phase.FAILED)
    trained = is_true(status.conditions, ConditionType.TRAINED)
    assert trained == (fails is not Step.TRAIN)
    world.now = LATER
    decision = await drive(world)
    lost = storage == TOOK_THE_CLAIM and output == ELSEWHERE and fails is Step.EVALUATE
    assert decision.expired != lost
    assert decision.look_again_seconds is None
    for message in told(decision):
        assert ("claim that was made for it goes along" in message) == (storage == TOOK_THE_CLAIM)
        assert "usage records stay" in message
