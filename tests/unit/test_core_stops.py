"""What is to stop stops, whatever is wrong beside it: a price, a crash, a gang let go in part."""

from datetime import timedelta

import pytest

from finetune_api.job import FineTuneJob
from finetune_api.phases import Phase, Reason
from finetune_api.ratecard import RateCard
from finetune_api.report import FailureClass, Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_api.times import parse_time
from finetune_operator.core.decision import Decision
from finetune_operator.core.observed import EngineFacts, Observed
from finetune_operator.core.policies.starting import starting
from finetune_operator.core.situation import Situation, Verdict
from finetune_operator.core.status import worth_writing
from finetune_operator.cost.ledger import totals
from finetune_operator.engine import step
from harness.scripted import CrashError, Fault, ScriptedEngine, World, a_card, a_job, drive
from unit.builders_cost import a_pod, at

LIMITED = {"budget": {"maxCost": "5"}, "policy": {"gracePeriodSeconds": 20}}
EUROS = a_card("0.36", "EUR")


async def in_training(job: FineTuneJob, **world: object) -> World:
    """A priced job whose gang has saved once."""
    made = World(job=job, cards=(a_card(),), **world)  # type: ignore[arg-type]  # by name
    await drive(made, until=lambda _: made.checkpoint > 0)
    return made


def rested(decision: Decision) -> bool:
    """Nothing runs any more."""
    return all(row.state == "Ended" for row in decision.status.attempts)


@pytest.mark.parametrize("cards", [(), (EUROS,)], ids=["removed", "in another currency"])
@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"suspend": True}, Reason.SUSPENDED_BY_USER),
        ({"budget": {"maxCost": "0.0001"}}, Reason.BUDGET_EXCEEDED),
        ({"policy": {"activeDeadlineSeconds": 1}}, Reason.DEADLINE_EXCEEDED),
    ],
    ids=["suspend", "budget", "deadline"],
)
async def test_a_gang_is_stopped_also_while_its_price_is_missing(
    cards: tuple[RateCard, ...], wish: dict[str, object], reason: Reason
) -> None:
    world = await in_training(a_job(**LIMITED))
    world.cards = cards
    world.job = a_job(**{**LIMITED, **wish})
    await drive(world, until=rested, limit=60)
    assert world.status is not None
    assert world.status.attempts[-1].reason == reason


async def test_a_ranks_death_ends_the_gang_also_while_its_price_is_missing() -> None:
    world = await in_training(a_job(**LIMITED), faults=(Fault(2, worker=1, after_seconds=40),))
    world.cards = ()
    await drive(world, until=rested, limit=60)
    assert world.status is not None
    assert world.status.attempts[-1].reason == FailureClass.UNKNOWN


def crash_once_at(world: World, write: str) -> None:
    """Let the controller die before the first write of a kind."""

    def hook(what: str) -> None:
        if what.startswith(write):
            world.before_write = lambda _: None
            raise CrashError

    world.before_write = hook


async def test_a_gang_that_was_noted_as_not_placed_is_stopped_after_a_crash_too() -> None:
    job = a_job(policy={"startTimeoutSeconds": 30, "backoffLimit": 0})
    world = World(job=job, cards=(a_card(),), unplaced=frozenset({2}))
    crash_once_at(world, "stop 2")
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert world.status.attempts[1].reason == FailureClass.UNSCHEDULABLE


async def test_a_stop_that_was_noted_is_carried_through_though_its_wish_was_taken_back() -> None:
    world = await in_training(a_job())
    world.job = a_job(suspend=True)
    crash_once_at(world, "stop 2")
    with pytest.raises(CrashError):
        await step(ScriptedEngine(world), world.now)
    world.job = a_job(suspend=False)
    await drive(world, until=rested, limit=60)
    assert world.status is not None
    assert world.status.attempts[1].reason == Reason.SUSPENDED_BY_USER
    await drive(world)
    assert world.status.phase is Phase.COMPLETE


@pytest.mark.parametrize(("hours", "due"), [(0, False), (-24, True), (24, True)])
async def test_figures_are_written_also_after_a_clock_was_set_back(
    hours: int, *, due: bool
) -> None:
    world = await in_training(a_job())
    before = world.status
    assert before is not None
    assert before.last_update_time is not None
    now = parse_time(before.last_update_time) + timedelta(hours=hours)
    after = before.model_copy(update={"cost": None})
    assert after != before
    assert worth_writing(before, after, now, running=True) is due


@pytest.mark.parametrize(("seconds", "ends"), [(29, False), (30, True)])
def test_a_gang_that_could_be_let_go_only_in_part_gives_back_what_it_holds(
    seconds: int, *, ends: bool
) -> None:
    job = a_job(policy={"startTimeoutSeconds": 30})
    gated = a_pod("pod-1", None, worker=1, released=False)
    let_go = a_pod("pod-0", started_at=at(1), released_at=at(0))
    finding = starting(
        Situation(
            observed=Observed(
                job=job, engine=EngineFacts(device="cuda"), pods=(let_go, gated), records=()
            ),
            now=at(seconds),
            status=JobStatus(attempt=1, attempts=(AttemptStatus(number=1, step=Step.TRAIN),)),
            records=(),
            totals=totals((), "USD", at(seconds)),
        )
    )
    assert (finding is not None) is ends
    if finding is not None:
        assert finding.verdict is Verdict.END_ATTEMPT
        assert "worker 1" in finding.message
