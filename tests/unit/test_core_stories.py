"""What becomes of a job: whole stories through the core, on a virtual clock."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune_api.job import FineTuneJob
from finetune_api.phases import TRANSITIONS, ConditionType, Phase, Reason
from finetune_api.report import FailureClass, Overfitting, Step
from finetune_api.times import milliseconds_between, parse_time
from finetune_api.usage import EndEvidence, TimeClass
from finetune_operator.core.conditions import find
from finetune_operator.core.decision import Decision
from finetune_operator.core.observed import Problem
from finetune_operator.cost.records import latest
from harness.scripted import (
    SAVE_SECONDS,
    START,
    CrashError,
    Fault,
    Silence,
    World,
    a_card,
    a_job,
    drive,
)


def held_milliseconds(world: World) -> int:
    """The world's own account of all pods that ended."""
    return sum(
        milliseconds_between(since, until)
        for since, until in world.held.values()
        if until is not None and until > since
    )


def metered_milliseconds(world: World) -> int:
    """What the records say, by their intervals."""
    return sum(
        milliseconds_between(parse_time(entry.since), parse_time(entry.until))
        for record in latest(world.records.values())
        for entry in record.spec.entries
        if entry.until is not None
    )


def class_milliseconds(world: World, name: TimeClass | None = None) -> int:
    """What the records say, by their classes."""
    return sum(
        share.milliseconds
        for record in latest(world.records.values())
        for entry in record.spec.entries
        for share in entry.classes
        if name is None or share.name == name
    )


async def test_an_overfitted_training_says_so_with_its_figures_and_goes_on_to_its_verdict() -> None:
    found = Overfitting(
        step=60,
        select_loss=0.45,
        train_loss=0.05,
        best_step=30,
        best_select_loss=0.31,
        train_loss_at_best=0.25,
    )
    world = World(job=a_job(), cards=(a_card(),), overfitting=found)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    condition = find(world.status.conditions, ConditionType.OVERFITTING)
    assert condition is not None
    assert (condition.status, condition.reason) == ("True", Reason.SELECT_LOSS_RISES)
    assert condition.message == (
        "The loss on the select rows rose, 0.3100 at step 30 to 0.4500 at step 60, while the "
        "training loss fell, 0.2500 to 0.0500; the checkpoint of step 30 is kept."
    )
    trained = find(world.status.conditions, ConditionType.TRAINED)
    assert trained is not None
    assert "stopped early as it overfitted" in trained.message
    told = [event for event in world.events if event.reason == Reason.SELECT_LOSS_RISES]
    assert [(event.kind, event.message) for event in told] == [("Warning", condition.message)]


async def test_a_training_that_does_not_overfit_says_nothing_of_it() -> None:
    world = World(job=a_job(), cards=(a_card(),))
    await drive(world)
    assert world.status is not None
    assert find(world.status.conditions, ConditionType.OVERFITTING) is None


async def test_a_job_goes_from_manifest_to_verdict() -> None:
    world = World(job=a_job(), cards=(a_card(),))
    await drive(world)
    status = world.status
    assert status is not None
    assert status.phase is Phase.COMPLETE
    assert [(row.number, row.step, row.reason) for row in status.attempts] == [
        (1, Step.PREPARE, "Completed"),
        (2, Step.TRAIN, "Completed"),
        (3, Step.EVALUATE, "Completed"),
    ]
    assert status.evaluation is not None
    assert status.evaluation.passed
    assert status.progress is not None
    assert status.progress.percent == "100%"
    end = status.progress.curve[-1]
    assert (end.step, end.select_loss) == (world.total_steps, 0.3)
    assert {artifact.name for artifact in status.artifacts} == {
        "evaluation",
        "predictions",
        "model",
    }
    assert all(record.spec.sealed and record.spec.lost_settled for record in world.records.values())
    assert metered_milliseconds(world) == held_milliseconds(world) == class_milliseconds(world)
    assert status.cost is not None
    spent = held_milliseconds(world) * 0.36 / 3_600_000
    assert float(status.cost.spent) == pytest.approx(spent, abs=1e-6)
    assert world.forgotten == {1, 2, 3}


async def test_a_failed_gate_fails_the_job_and_exports_nothing() -> None:
    world = World(job=a_job(), passed=False)
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.FAILED, "GateFailed")
    assert "model" not in {artifact.name for artifact in world.status.artifacts}


async def test_any_ranks_death_ends_the_gang_and_the_next_attempt_resumes() -> None:
    world = World(job=a_job(), cards=(a_card(),), faults=(Fault(2, worker=1, after_seconds=28),))
    await drive(world)
    status = world.status
    assert status is not None
    assert status.phase is Phase.COMPLETE
    rows = [(row.step, row.reason, row.charged) for row in status.attempts]
    assert rows[1:3] == [(Step.TRAIN, "Unknown", True), (Step.TRAIN, "Completed", False)]
    assert "signal 9" in (status.attempts[1].message or "")
    resumed = status.attempts[2].marks
    assert resumed is not None
    assert resumed.resumed_from_step == 8
    assert status.attempts[1].lost_device_seconds > 0
    assert status.cost is not None
    assert float(status.cost.wasted) > 0
    assert metered_milliseconds(world) == held_milliseconds(world) == class_milliseconds(world)


@pytest.mark.parametrize(
    ("failure", "exit_code"),
    [(FailureClass.USER_ERROR, 64), (FailureClass.DATA_ERROR, 65)],
)
async def test_what_trying_again_cannot_mend_fails_at_once(
    failure: FailureClass, exit_code: int
) -> None:
    fault = Fault(1, worker=0, after_seconds=5, exit_code=exit_code, failure=failure)
    world = World(job=a_job(), faults=(fault,))
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.FAILED, failure)
    assert world.status.attempt == 1
    assert metered_milliseconds(world) == held_milliseconds(world)


async def test_charged_failures_end_at_the_backoff_limit() -> None:
    faults = tuple(Fault(n, worker=0, after_seconds=12) for n in range(2, 9))
    world = World(job=a_job(policy={"backoffLimit": 2}), faults=faults)
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.FAILED, "BackoffLimitExceeded")
    assert world.status.charged_failures == 3
    assert [row.step for row in world.status.attempts] == [Step.PREPARE, *[Step.TRAIN] * 3]


async def test_preemption_is_not_charged() -> None:
    faults = tuple(
        Fault(n, worker=0, after_seconds=12, exit_code=143, disrupted="PreemptionByScheduler")
        for n in (2, 3)
    )
    world = World(job=a_job(policy={"backoffLimit": 0}), faults=faults)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert world.status.charged_failures == 0
    assert [row.reason for row in world.status.attempts].count("Preempted") == 2


async def test_what_an_attempt_lost_is_told_also_when_the_status_shows_it_no_more() -> None:
    first = Fault(2, worker=1, after_seconds=30, disrupted="PreemptionByScheduler")
    early = tuple(
        Fault(n, worker=0, after_seconds=4, disrupted="PreemptionByScheduler") for n in range(3, 14)
    )
    world = World(job=a_job(), faults=(first, *early))
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert world.status.attempts[0].number > 2
    assert all(record.spec.lost_settled for record in world.records.values())
    assert class_milliseconds(world, TimeClass.LOST) > 0


async def test_out_of_device_memory_halves_the_micro_batch_and_keeps_the_global_one() -> None:
    oom = Fault(2, worker=0, after_seconds=9, exit_code=71, failure=FailureClass.DEVICE_OOM)
    world = World(job=a_job(), faults=(oom,))
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    first, second = (world.gangs[n].action.run.training for n in (2, 3))
    assert (first.micro_batch_size, first.accumulation_steps) == (16, 1)
    assert (second.micro_batch_size, second.accumulation_steps) == (8, 2)


async def test_out_of_device_memory_at_the_least_footprint_fails_with_what_would_fit() -> None:
    faults = tuple(
        Fault(n, worker=0, after_seconds=9, exit_code=71, failure=FailureClass.DEVICE_OOM)
        for n in range(2, 10)
    )
    world = World(job=a_job(training={"globalBatchSize": 8}), faults=faults)
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.FAILED, "DeviceOOM")
    assert "training.maxLength" in (world.status.message or "")
    runs = [gang.action.run.training for number, gang in world.gangs.items() if number > 1]
    tried = [(run.micro_batch_size, run.activation_checkpointing) for run in runs]
    assert tried == [(4, False), (2, False), (1, False), (1, True)]


async def test_a_stalled_gang_is_restarted() -> None:
    world = World(job=a_job(policy={"stallTimeoutSeconds": 60}), stall_attempt=2)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert world.status.attempts[1].reason == "Stalled"
    assert world.status.attempts[1].charged


async def test_a_gang_that_gets_on_with_a_save_is_not_stalled() -> None:
    over = []
    for slow_save in (timedelta(0), timedelta(seconds=500)):
        world = World(
            job=a_job(policy={"stallTimeoutSeconds": 60}), stall_attempt=2, slow_save=slow_save
        )
        await drive(world)
        assert world.status is not None
        assert world.status.attempts[1].reason == "Stalled"
        over.append(max(at for at, _ in world.gangs[2].ends.values()))
    assert over[1] - over[0] == timedelta(seconds=500)


async def test_suspend_saves_and_waits_and_resume_goes_on_from_there() -> None:
    world = World(job=a_job(), cards=(a_card(),))
    await drive(world, until=lambda _: world.now >= START + timedelta(seconds=50))
    world.job = a_job(suspend=True)
    await drive(world)
    status = world.status
    assert status is not None
    assert (status.phase, status.reason) == (Phase.SUSPENDED, "SuspendedByUser")
    done = world.checkpoint
    assert done > 0
    world.now += timedelta(hours=5)
    world.job = a_job(suspend=False)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    marks = world.status.attempts[2].marks
    assert marks is not None
    assert marks.resumed_from_step == done
    assert class_milliseconds(world, TimeClass.LOST) == 0
    assert metered_milliseconds(world) == held_milliseconds(world)


async def test_a_budget_stops_in_time_and_stays_stopped_until_it_is_raised() -> None:
    limits = {"budget": {"maxCost": "0.04"}, "policy": {"gracePeriodSeconds": 20}}
    world = World(job=a_job(**limits), cards=(a_card("0.9"),))
    await drive(world)
    status = world.status
    assert status is not None
    assert (status.phase, status.reason) == (Phase.SUSPENDED, "BudgetExceeded")
    assert status.cost is not None
    assert 0 < float(status.cost.spent) <= 0.04
    assert world.checkpoint > 0
    attempts = status.attempt
    world.now += timedelta(days=1)
    await drive(world)
    assert world.status is not None
    assert world.status.attempt == attempts
    world.job = a_job(budget={"maxCost": "5"}, policy={"gracePeriodSeconds": 20})
    await drive(world)
    assert world.status.phase is Phase.COMPLETE
    assert class_milliseconds(world, TimeClass.LOST) == 0


async def test_device_hours_are_limited_in_the_same_way() -> None:
    limits = {"budget": {"maxGpuHours": "0.03"}, "policy": {"gracePeriodSeconds": 20}}
    world = World(job=a_job(**limits))
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.SUSPENDED, "BudgetExceeded")
    assert 0 < held_milliseconds(world) <= 0.03 * 3_600_000


async def test_a_price_is_that_of_the_day_on_which_the_pod_was_bound() -> None:
    world = World(job=a_job(), cards=(a_card("0.36"),))
    await drive(world, until=lambda _: world.checkpoint > 0)
    world.cards = (a_card("360"),)
    await drive(
        world,
        until=lambda _: any(
            r.spec.step == "train" and r.spec.sealed for r in world.records.values()
        ),
    )
    rates = {
        entry.rate.price_per_hour
        for record in world.records.values()
        if record.spec.step is Step.TRAIN
        for entry in record.spec.entries
        if entry.rate is not None
    }
    assert rates == {"0.36"}


@pytest.mark.parametrize(
    ("job", "cards", "reason", "word"),
    [
        (a_job(budget={"maxCost": "5"}), (), "RateMissing", "entry named local"),
        (a_job(budget={"maxCost": "5"}), (a_card(currency="EUR"),), "CurrencyMismatch", "EUR"),
        (a_job(budget={"maxCost": "0.0001"}), (a_card(),), "BudgetTooSmall", "maxCost"),
        (a_job(dataset={"train": "x", "labels": ["a", "a"]}), (), "InvalidSpec", "twice"),
    ],
)
async def test_what_cannot_be_admitted_releases_nothing(
    job: object, cards: tuple[object, ...], reason: str, word: str
) -> None:
    world = World(job=job, cards=cards)  # type: ignore[arg-type]  # the table mixes types
    await drive(world)
    status = world.status
    assert status is not None
    assert (status.phase, status.reason) == (Phase.PENDING, reason)
    assert word in (status.message or "")
    assert not world.gangs
    admitted = find(status.conditions, "Admitted")  # type: ignore[arg-type]  # by its name
    assert admitted is not None
    assert admitted.status == "False"


async def test_use_without_a_rate_is_unpriced_and_never_free() -> None:
    world = World(job=a_job())
    await drive(world)
    assert world.status is not None
    assert world.status.cost is not None
    assert float(world.status.cost.unpriced_hours) > 0
    assert float(world.status.cost.spent) == 0


async def test_a_deadline_counts_running_time_only() -> None:
    world = World(job=a_job(policy={"activeDeadlineSeconds": 45}))
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.FAILED, "DeadlineExceeded")
    assert world.checkpoint > 0


async def test_a_finished_job_stays_finished() -> None:
    world = World(job=a_job())
    await drive(world)
    writes = len(world.writes)
    world.job = a_job(suspend=True)
    decision = await drive(world)
    assert decision.finished
    assert world.writes[writes:] == []


async def test_a_smoke_run_goes_the_whole_way_in_few_steps_and_applies_no_gate() -> None:
    gate = {"gate": [{"name": "high", "metric": "accuracy", "min": 0.9}]}
    world = World(job=a_job(evaluation=gate), smoke=True)
    await drive(world)
    run = world.gangs[2].action.run
    assert (run.training.max_steps, run.training.epochs) == (20, None)
    assert run.dataset.limit == 1280
    assert world.gangs[3].action.run.evaluation.gate == ()
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert world.status.resolved is not None
    assert "gate is not applied" in world.status.resolved.note


async def test_a_failed_gate_is_told_once() -> None:
    world = World(job=a_job(), passed=False)
    await drive(world)
    assert [event.reason for event in world.events].count("GateFailed") == 1


async def test_fewer_devices_than_asked_keep_the_global_batch() -> None:
    world = World(
        job=a_job(compute={"workers": 4, "gpusPerWorker": 2}, training={"globalBatchSize": 48}),
        max_ranks=3,
    )
    await drive(world)
    run = world.gangs[2].action.run
    assert run.gang.world_size == 3
    product = run.gang.world_size * run.training.micro_batch_size * run.training.accumulation_steps
    assert product == run.training.global_batch_size == 48
    assert world.status is not None
    assert world.status.resolved is not None
    assert "4 workers × 2" in world.status.resolved.note


def crash_at(count: int, *, after: bool, world: World) -> None:
    """Let the controller die at its ``count``-th write, once."""
    seen = 0

    def hook(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == count:
            raise CrashError

    if after:
        world.after_write = hook
    else:
        world.before_write = hook


FAULTS = (Fault(2, worker=1, after_seconds=18),)


def a_short_world(faults: tuple[Fault, ...] = ()) -> World:
    """A training of eight steps, looked at every three seconds."""
    job = a_job(training={"maxSteps": 8})
    return World(job=job, cards=(a_card(),), faults=faults, look_seconds=3.0)


@pytest.mark.parametrize("faults", [(), FAULTS], ids=["happy", "rank death"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_write_changes_nothing_of_the_end(
    faults: tuple[Fault, ...], *, after: bool
) -> None:
    reference = a_short_world(faults)
    await drive(reference)
    assert reference.status is not None
    for count in range(1, len(reference.writes) + 1):
        world = a_short_world(faults)
        crash_at(count, after=after, world=world)
        await drive(world)
        assert world.status is not None
        assert world.status.phase is reference.status.phase, count
        assert world.status.attempt == reference.status.attempt, count
        assert len(world.gangs) == len(reference.gangs), count
        assert metered_milliseconds(world) == held_milliseconds(world), count
        assert class_milliseconds(world) == held_milliseconds(world), count


@settings(max_examples=25, deadline=None)
@given(
    faults=st.lists(
        st.builds(
            Fault,
            attempt=st.integers(1, 6),
            worker=st.integers(0, 1),
            after_seconds=st.integers(0, 30),
            exit_code=st.sampled_from([137, 143, 70, 71, 74, 75, 1]),
        ),
        max_size=6,
    ),
    silences=st.lists(
        st.builds(
            Silence,
            attempt=st.integers(1, 4),
            worker=st.integers(0, 1),
            # From the binding on: a node that is silent gets no pod.
            after_seconds=st.integers(1, 30),
            back_seconds=st.integers(31, 90),
        ),
        max_size=2,
    ),
    crashes=st.sets(st.integers(1, 40), max_size=6),
)
# The node comes back when the next gang is made and not yet released.
@example(faults=[], silences=[Silence(2, 0, after_seconds=1, back_seconds=31)], crashes=set())
async def test_whatever_dies_the_rules_hold(
    faults: list[Fault], silences: list[Silence], crashes: set[int]
) -> None:
    """I1 (asserted by the world), I2, I3, I4, I6, for any faults, lost nodes and crashes."""
    world = a_short_world(tuple(faults))
    world.silences = tuple(silences)
    attempts: list[int] = []
    phases: list[Phase] = []
    seen = 0

    def hook(_: str) -> None:
        nonlocal seen
        seen += 1
        if world.status is not None:
            attempts.append(world.status.attempt)
            phases.append(world.status.phase)
        if seen in crashes:
            raise CrashError

    world.after_write = hook

    def done(decision: Decision) -> bool:
        return decision.finished

    await drive(world, until=done)
    # Nodes come back; what their pods tell is taken in, also of a job that is over.
    world.now += timedelta(seconds=120)
    await drive(world, until=done)
    assert world.status is not None
    assert world.status.phase in (Phase.COMPLETE, Phase.FAILED)
    assert attempts == sorted(attempts)
    assert max(world.gangs) == world.status.attempt
    for earlier, later in pairwise(phases):
        assert later is earlier or later in TRANSITIONS[earlier]
    assert metered_milliseconds(world) == held_milliseconds(world) == class_milliseconds(world)
    assert all(record.spec.lost_settled for record in latest(world.records.values()))
    assert world.forgotten == set(world.gangs)


SILENT_AT, BACK_AT = 15, 40


@pytest.mark.parametrize("over", [False, True])
async def test_a_node_that_comes_back_corrects_what_its_pods_held(*, over: bool) -> None:
    """While the next attempt trains, and when the job is over; each is a record of its own."""
    back = 10_000 if over else BACK_AT
    world = World(
        job=a_job(), cards=(a_card(),), silences=(Silence(2, 1, SILENT_AT, back_seconds=back),)
    )
    await drive(world)
    released = world.gangs[2].released_at
    assert released is not None
    assert world.status is not None
    assert (world.status.phase, world.status.attempts[1].reason) == (Phase.COMPLETE, "NodeFault")
    if over:
        # Nobody has told it yet: its silence is the end, and it is kept for what it may tell.
        assert world.forgotten == {1, 3, 4}
        before = float(world.status.cost.spent) if world.status.cost else 0.0
        world.now = released + timedelta(seconds=back + 60)
        await drive(world)
        assert world.status.cost is not None
        held = (back - SILENT_AT + SAVE_SECONDS) / 3600
        assert float(world.status.cost.spent) == pytest.approx(before + 0.36 * held, abs=2e-6)
    first, corrected = (r for r in world.records.values() if r.spec.attempt == 2)
    assert corrected.metadata.name == f"{first.metadata.name}-r1"
    assert (first.spec.revision, corrected.spec.revision) == (0, 1)
    sure = [[entry.confirmed for entry in r.spec.entries] for r in (first, corrected)]
    assert sure == [[True, False], [True, True]]
    assert first.spec.lost_settled == corrected.spec.lost_settled is True
    assert world.forgotten == {1, 2, 3, 4}
    assert metered_milliseconds(world) == held_milliseconds(world) == class_milliseconds(world)


async def test_a_pod_on_a_node_that_never_comes_back_ended_with_its_silence() -> None:
    world = World(job=a_job(), cards=(a_card(),), silences=(Silence(2, 1, SILENT_AT),))
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    (record,) = [one for one in world.records.values() if one.spec.attempt == 2]
    assert record.spec.lost_settled
    lost = record.spec.entries[1]
    assert (lost.end_evidence, lost.confirmed) == (EndEvidence.NODE_GONE, False)
    assert 2 not in world.forgotten
    assert metered_milliseconds(world) == class_milliseconds(world)


async def test_a_training_that_nobody_asked_has_its_progress_at_the_end() -> None:
    world = World(job=a_job(), silent=True)
    await drive(world)
    assert world.status is not None
    assert world.status.progress is not None
    assert world.status.progress.step == world.status.progress.total_steps == world.total_steps
    assert world.status.progress.percent == "100%"


async def test_a_gang_that_is_not_placed_whole_gives_back_what_it_holds() -> None:
    job = a_job(policy={"startTimeoutSeconds": 30, "backoffLimit": 0})
    world = World(job=job, cards=(a_card(),), unplaced=frozenset({2}))
    await drive(world)
    status = world.status
    assert status is not None
    assert status.phase is Phase.COMPLETE
    row = status.attempts[1]
    assert (row.reason, row.charged) == (FailureClass.UNSCHEDULABLE, False)
    assert "0/3 nodes have room" in (row.message or "")
    # The worker that had a place held it for the timeout and no longer than stopping takes.
    (use,) = [r for r in world.records.values() if r.spec.attempt == 2]
    assert [entry.worker for entry in use.spec.entries] == [0]
    assert metered_milliseconds(world) == held_milliseconds(world) == class_milliseconds(world)


async def test_what_keeps_a_worker_from_starting_is_said_while_the_gang_still_waits() -> None:
    world = World(job=a_job(policy={"startTimeoutSeconds": 30}), unplaced=frozenset({2}))
    said = "Worker 1 does not start: Unschedulable: 0/3 nodes have room"
    await drive(world, until=lambda decision: said in (decision.status.message or ""))
    status = world.status
    assert status is not None
    assert status.attempts[1].state == "Starting"
    running = find(status.conditions, ConditionType.RUNNING)
    assert running is not None
    assert (running.reason, running.message) == (Reason.STARTING, status.message)


async def test_gangs_in_each_others_way_come_back_at_different_times() -> None:
    waits = set()
    for n in range(8):
        job = a_job(policy={"startTimeoutSeconds": 30})
        uid = f"3f9c1b2e-0000-4000-8000-00000000000{n}"
        job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": uid})})
        world = World(job=job, unplaced=frozenset({2}))
        await drive(world, until=lambda decision: decision.status.retry_time is not None)
        assert world.status is not None
        waits.add((world.now, world.status.retry_time))
    assert len(waits) > 4


async def test_a_report_that_nobody_received_is_made_again_and_not_charged() -> None:
    world = World(job=a_job(policy={"backoffLimit": 0}), missed_reports=1)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert world.status.charged_failures == 0
    assert world.status.attempts[0].reason == FailureClass.REPORT_MISSED


async def test_reports_that_never_arrive_fail_the_job_with_what_to_look_at() -> None:
    world = World(job=a_job(), missed_reports=100)
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.FAILED, "ReportMissed")
    assert "NetworkPolicies" in (world.status.message or "")
    assert world.status.attempt == 5


async def test_pods_that_do_not_come_are_told_and_waited_for() -> None:
    world = World(job=a_job(), blocked="exceeded quota: gpus")
    decision = await drive(world, until=lambda decision: decision.status.reason == "GangBlocked")
    assert "exceeded quota: gpus" in (decision.status.message or "")
    assert decision.look_again_seconds == 0.2
    world.blocked = None
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE


async def test_a_released_gang_is_bounded_by_what_is_left_of_each_limit() -> None:
    limits = {"maxCost": "0.10", "maxGpuHours": "5"}
    world = World(
        job=a_job(budget=limits, policy={"startTimeoutSeconds": 60}), cards=(a_card("0.36"),)
    )
    await drive(world)
    bounds = {n: gang.deadline_seconds for n, gang in world.gangs.items()}
    # One device at 0.36 an hour for 0.10: 1,000 s, and the time that a start may take.
    assert bounds[1] == 1060
    # Two devices, and what the first step has used is gone.
    assert bounds[2] is not None
    assert 540 <= bounds[2] < 560
    free = World(job=a_job())
    await drive(free)
    assert {gang.deadline_seconds for gang in free.gangs.values()} == {None}


async def test_a_gang_waits_while_another_one_gets_its_devices() -> None:
    world = World(job=a_job(), ahead="team-b/other")
    decision = await drive(world, until=lambda d: "team-b/other" in (d.status.message or ""))
    assert world.gangs[1].released_at is None
    assert decision.status.phase is Phase.PREPARING
    world.ahead = None
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE


ON_CLAIMS = {"model": {"uri": "pvc://c/model"}, "dataset": {"train": "pvc://c/rows.csv"}}


async def suspend_in_training(world: World, job: FineTuneJob) -> None:
    """Suspend the job amid its training, and wait until its work is saved."""
    await drive(world, until=lambda _: bool(world.checkpoint))
    world.job = changed_spec(job, suspend=True)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.SUSPENDED


def changed_spec(job: FineTuneJob, **spec: object) -> FineTuneJob:
    return job.model_copy(update={"spec": job.spec.model_copy(update=spec)})


@pytest.mark.parametrize(("max_ranks", "ranks"), [(None, 8), (4, 4)])
async def test_a_job_whose_workers_were_changed_goes_on_with_the_new_gang(
    max_ranks: int | None, ranks: int
) -> None:
    job = a_job(**ON_CLAIMS)
    world = World(job=job, cards=(a_card(),), max_ranks=max_ranks)
    await suspend_in_training(world, job)
    saved = world.checkpoint
    world.job = a_job(compute={"workers": 8, "gpusPerWorker": 1}, **ON_CLAIMS)
    await drive(world)
    status = world.status
    assert status is not None
    assert (status.phase, status.attempt) == (Phase.COMPLETE, 4)
    before, after = (world.gangs[n].action.run for n in (2, 3))
    assert (before.gang.world_size, after.gang.world_size) == (2, ranks)
    assert world.gangs[3].resumed_from == saved > 0
    assert before.spec_digest == after.spec_digest
    for run in (before, after):
        training = run.training
        split = training.micro_batch_size * training.accumulation_steps * run.gang.world_size
        assert split == training.global_batch_size
    assert status.resolved is not None
    assert (status.resolved.workers, status.resolved.micro_batch_size) == (ranks, 32 // ranks)
    assert metered_milliseconds(world) == held_milliseconds(world) == class_milliseconds(world)
    record = next(one for one in world.records.values() if one.spec.attempt == 3)
    assert len(record.spec.entries) == ranks


async def test_a_micro_batch_that_was_too_large_stays_smaller_on_another_gang() -> None:
    job = a_job(**ON_CLAIMS)
    memory = FailureClass.DEVICE_OOM
    fault = Fault(attempt=2, worker=0, after_seconds=20, exit_code=71, failure=memory)
    world = World(job=job, faults=(fault,), max_ranks=None)
    await drive(world, until=lambda decision: decision.status.attempt == 3)
    world.job = changed_spec(job, suspend=True)
    await drive(world)
    world.job = a_job(compute={"workers": 1, "gpusPerWorker": 1}, **ON_CLAIMS)
    await drive(world)
    training = world.gangs[4].action.run.training
    assert world.gangs[3].action.run.training.micro_batch_size == 8
    assert (training.micro_batch_size, training.accumulation_steps) == (8, 4)


async def test_more_workers_than_can_share_the_claim_wait() -> None:
    job = a_job(**ON_CLAIMS)
    world = World(job=job, max_ranks=None)
    await suspend_in_training(world, job)
    world.job = a_job(compute={"workers": 4, "gpusPerWorker": 1}, **ON_CLAIMS)
    world.problems = (Problem(field="spec.compute.workers", message="set it back to 1"),)
    await drive(world)
    assert world.status is not None
    assert (world.status.phase, world.status.reason) == (Phase.SUSPENDED, "InvalidSpec")
    assert world.status.message == "spec.compute.workers: set it back to 1"
    world.problems, world.job = (), job
    await drive(world)
    assert world.status.phase is Phase.COMPLETE


LARGE = 4_000_000_000
"""Parameters of a model whose weights are most of what it takes."""


@pytest.mark.parametrize(
    ("memory", "deepspeed", "stage"),
    [
        (None, {}, 2),
        (80 << 30, {}, 2),
        (1 << 20, {}, 3),
        (1 << 20, {"zeroStage": 1}, 1),
        (80 << 30, {"offload": "parameters"}, 3),
    ],
)
async def test_what_is_sharded_is_what_fits_where_the_manifest_leaves_it_open(
    memory: int | None, deepspeed: dict[str, object], stage: int
) -> None:
    world = World(
        job=a_job(deepspeed=deepspeed), device_memory_bytes=memory, model_parameters=LARGE
    )
    await drive(world)
    assert world.status is not None
    assert world.status.resolved is not None
    assert world.status.resolved.zero_stage == stage
    assert world.gangs[2].action.run.training.zero_stage == stage


async def test_weights_are_not_sharded_where_gathering_takes_more_than_that_saves() -> None:
    world = World(job=a_job(), device_memory_bytes=1 << 20)
    await drive(world)
    assert world.status is not None
    assert world.status.resolved is not None
    assert world.status.resolved.zero_stage == 2


async def test_what_is_sharded_stays_what_it_was_when_the_devices_change() -> None:
    fault = Fault(2, worker=0, after_seconds=12)
    world = World(job=a_job(), faults=(fault,), device_memory_bytes=1 << 20, model_parameters=LARGE)
    await drive(world, until=lambda decision: decision.status.attempt == 2)
    world.device_memory_bytes = 80 << 30
    await drive(world)
    assert [world.gangs[n].action.run.training.zero_stage for n in (2, 3)] == [3, 3]


async def test_one_rank_has_nobody_to_shard_with() -> None:
    alone = {"workers": 1, "gpusPerWorker": 1}
    world = World(job=a_job(compute=alone), device_memory_bytes=1 << 20)
    await drive(world)
    assert world.gangs[2].action.run.training.zero_stage == 2


@pytest.mark.parametrize(("smoke", "passed"), [(False, True), (False, False), (True, True)])
async def test_a_model_that_passed_is_named_where_it_was_published(
    *, smoke: bool, passed: bool
) -> None:
    uri = "s3://models/reviews"
    world = World(job=a_job(output={"uri": uri}), smoke=smoke, passed=passed)
    await drive(world)
    assert world.status is not None
    published = [one for one in world.status.artifacts if one.name == "published"]
    if smoke or not passed:
        assert not published
    else:
        (model,) = (one for one in world.status.artifacts if one.name == "model")
        assert [(one.uri, one.digest) for one in published] == [(uri, model.digest)]
    # A smoke run is held to no gate, so it must not take a real model's place.
    outputs = {gang.action.run.output.uri for gang in world.gangs.values()}
    assert outputs == {None if smoke else uri}
