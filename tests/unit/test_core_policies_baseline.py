"""A conventional baseline that meets the gate on the select rows: told always, a stop if asked."""

import pytest

from finetune_api.datareport import BaselineFit
from finetune_api.evaluation import GateRule
from finetune_api.evaluationreport import Interval
from finetune_api.job import FineTuneJob
from finetune_api.phases import ConditionType, Phase, Reason
from finetune_api.report import Step
from finetune_api.tasks import Baseline, Metric
from finetune_api.usage import TimeClass
from finetune_operator.core.baselines import passing
from finetune_operator.core.conditions import find
from harness.scripted import World, a_card, a_job, drive

ACCURATE = {"name": "accurate", "metric": "accuracy", "min": 0.8}
BETTER = {"name": "better", "metric": "errorReduction", "min": 0.1}


def a_fit(name: Baseline, accuracy: float, loss: float = 0.4) -> BaselineFit:
    return BaselineFit(
        name=name,
        select=accuracy,
        metrics={
            Metric.ACCURACY: Interval(value=accuracy, low=accuracy - 0.05, high=accuracy + 0.05),
            Metric.LOSS: Interval(value=loss),
        },
    )


FITS = (a_fit(Baseline.MAJORITY, 0.5), a_fit(Baseline.TFIDF, 0.83))


@pytest.mark.parametrize(
    ("gate", "found"),
    [
        ((), None),
        ((ACCURATE,), Baseline.TFIDF),
        (({**ACCURATE, "min": 0.83},), Baseline.TFIDF),
        (({**ACCURATE, "min": 0.84},), None),
        (({**ACCURATE, "min": 0.5},), Baseline.TFIDF),
        (({**ACCURATE, "bound": "Lower"},), None),
        (({**ACCURATE, "min": 0.77, "bound": "Lower"},), Baseline.TFIDF),
        (({"name": "sure", "metric": "loss", "max": 0.4},), Baseline.TFIDF),
        (({"name": "sure", "metric": "loss", "max": 0.3},), None),
        # An end that no interval has, and a figure that is not known.
        (({"name": "sure", "metric": "loss", "max": 1, "bound": "Upper"},), None),
        ((ACCURATE, {"name": "even", "metric": "macroF1", "min": 0.1}), None),
        # What can't be asked of a baseline.
        ((ACCURATE, BETTER), None),
        ((ACCURATE, {"name": "calm", "metric": "flipRate", "max": 1}), None),
        (({"name": "fair", "metric": "accuracy", "group": "domain", "maxShortfall": 1},), None),
    ],
)
def test_a_baseline_passes_if_it_meets_every_requirement_and_each_can_be_asked_of_it(
    gate: tuple[dict[str, object], ...], found: Baseline | None
) -> None:
    rules = [GateRule.model_validate(one) for one in gate]
    fit = passing(rules, FITS)
    assert (fit.name if fit else None) == found


def test_of_two_that_pass_the_one_to_beat_is_named_and_a_silent_report_passes_nothing() -> None:
    rules = [GateRule.model_validate({**ACCURATE, "min": 0.4})]
    fit = passing(rules, FITS)
    assert fit is not None
    assert fit.name is Baseline.TFIDF
    # Of a trainer that told only the first figure.
    assert passing(rules, [BaselineFit(name=Baseline.TFIDF, select=0.9)]) is None


def the_job(action: str | None) -> FineTuneJob:
    policy = {} if action is None else {"onBaselinePasses": action}
    return a_job(evaluation={"gate": [ACCURATE]}, policy=policy)


def steps(world: World) -> list[Step]:
    return [gang.action.step for _, gang in sorted(world.gangs.items())]


SAID = (
    "Tuned TF-IDF meets every requirement of the gate on the 30 select rows: accuracy 0.8300, "
    "required at least 0.8. For that, no GPU is needed."
)


async def test_by_default_the_job_is_warned_and_goes_on() -> None:
    world = World(job=the_job(None), baselines=FITS)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    condition = find(world.status.conditions, ConditionType.BASELINE_PASSES)
    assert condition is not None
    assert (condition.status, condition.message) == ("True", SAID)
    told = [event for event in world.events if event.reason == Reason.BASELINE_PASSES]
    assert [(event.kind, event.message) for event in told] == [("Warning", SAID)]


async def test_where_it_is_to_stop_no_training_gang_is_ever_made_until_it_may_continue() -> None:
    world = World(job=the_job("Stop"), cards=(a_card(),), baselines=FITS)
    decision = await drive(world)
    status = decision.status
    assert (status.phase, status.reason) == (Phase.SUSPENDED, Reason.BASELINE_PASSES)
    assert steps(world) == [Step.PREPARE]
    assert {record.spec.step for record in world.records.values()} == {Step.PREPARE}
    assert (status.message or "").startswith(SAID)
    assert "policy.onBaselinePasses to Continue" in (status.message or "")
    # It rests so, however often it is looked at.
    assert (await drive(world)).finished
    assert steps(world) == [Step.PREPARE]
    world.job = the_job("Continue")
    status = (await drive(world)).status
    assert status.phase is Phase.COMPLETE
    assert steps(world) == [Step.PREPARE, Step.TRAIN, Step.EVALUATE]
    resumed = find(status.conditions, ConditionType.SUSPENDED)
    assert resumed is not None
    assert (resumed.status, resumed.reason) == ("False", Reason.RESUMED)


async def test_a_stop_that_is_asked_for_in_training_saves_and_one_after_it_changes_nothing() -> (
    None
):
    world = World(job=the_job("Continue"), cards=(a_card(),), baselines=FITS)
    await drive(world, until=lambda _: world.checkpoint > 0)
    world.job = the_job("Stop")
    status = (await drive(world)).status
    assert (status.phase, status.reason) == (Phase.SUSPENDED, Reason.BASELINE_PASSES)
    world.job = the_job("Continue")

    def trained(_: object) -> bool:
        conditions = world.status.conditions if world.status else ()
        return find(conditions, ConditionType.TRAINED) is not None

    await drive(world, until=trained)
    world.job = the_job("Stop")
    status = (await drive(world)).status
    assert status.phase is Phase.COMPLETE
    assert status.cost is not None
    lost = [one for one in status.cost.classes if one.name == TimeClass.LOST]
    assert all(float(one.device_seconds) == 0 for one in lost)


@pytest.mark.parametrize("smoke", [False, True])
async def test_a_smoke_run_and_a_gate_that_is_out_of_reach_are_not_warned(*, smoke: bool) -> None:
    fits = FITS if smoke else FITS[:1]
    world = World(job=the_job("Stop"), baselines=fits, smoke=smoke)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert find(world.status.conditions, ConditionType.BASELINE_PASSES) is None
