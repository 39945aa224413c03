"""Under a money limit every step to come has a price in the limit's currency, or nothing starts."""

import pytest

from finetune_api.phases import ConditionType, Reason
from finetune_api.ratecard import RateCard
from finetune_api.report import Step
from finetune_api.status import Condition, JobStatus
from finetune_operator.core.conditions import with_condition
from finetune_operator.core.observed import EngineFacts, Observed
from finetune_operator.core.policies.pricing import pricing
from finetune_operator.core.situation import CONDITION_OF_STEP, Finding, Situation, Verdict
from finetune_operator.cost.ledger import totals
from finetune_operator.cost.pods import Placement
from harness.scripted import START, a_job
from unit.builders_cost import LONG_AGO, a_card, a_place, a_price

ANYWHERE = {"provider": None, "region": None, "capacity_type": None}
T4 = a_place(device="T4", **ANYWHERE)
A100 = a_place(device="A100", **ANYWHERE)
H200 = a_place(device="H200", **ANYWHERE)
CPUS = a_place(device="cpu", milli_cores=2000, memory_mebibytes=8192, region="eu-west4")
LIMITED = {"budget": {"maxCost": "5"}}


def asked(
    placements: dict[Step, Placement],
    *cards: RateCard,
    spec: dict[str, object] | None = None,
    done: tuple[Step, ...] = (),
    counted_in: str = "USD",
) -> Finding | None:
    conditions: tuple[Condition, ...] = ()
    for step in done:
        conditions = with_condition(
            conditions, CONDITION_OF_STEP[step], "True", "Done", "", now=START, generation=1
        )
    observed = Observed(
        job=a_job(**(LIMITED if spec is None else spec)),
        engine=EngineFacts(device="cuda", placements=placements),
        rate_cards=cards,
    )
    return pricing(
        Situation(
            observed=observed,
            now=START,
            status=JobStatus(conditions=conditions),
            records=(),
            totals=totals((), counted_in, START),
        )
    )


@pytest.mark.parametrize(
    ("placements", "words"),
    [
        (dict.fromkeys(Step, T4), ()),
        (
            {**dict.fromkeys(Step, T4), Step.TRAIN: A100},
            ("for gpuType A100 (for train) that",),
        ),
        (
            {Step.PREPARE: T4, Step.TRAIN: A100, Step.EVALUATE: A100},
            ("for gpuType A100 (for train, evaluate) that",),
        ),
        (
            {Step.PREPARE: T4, Step.TRAIN: A100, Step.EVALUATE: H200},
            ("for gpuType A100 (for train) and for gpuType H200 (for evaluate) that",),
        ),
        (
            dict.fromkeys(Step, a_place(local=True)),
            ("named local (for prepare, train, evaluate) that",),
        ),
        (
            {Step.PREPARE: CPUS, Step.TRAIN: T4, Step.EVALUATE: T4},
            (
                "of resource cpu, provider gcp, region eu-west4, capacityType Spot (for prepare)",
                "and of resource memory, provider gcp",
            ),
        ),
        ({Step.PREPARE: T4, Step.EVALUATE: T4}, ("what train would run on", "gpuType")),
    ],
)
def test_every_step_to_come_needs_a_rate_under_a_limit(
    placements: dict[Step, Placement], words: tuple[str, ...]
) -> None:
    card = a_card(a_price("0.35", LONG_AGO))
    finding = asked(placements, card)
    if not words:
        assert finding is None
        return
    assert finding is not None
    assert (finding.verdict, finding.reason) == (Verdict.HOLD, Reason.RATE_MISSING)
    assert not finding.admitted
    assert all(word in finding.message for word in words), finding.message


def test_a_step_that_is_done_needs_no_rate_any_more() -> None:
    card = a_card(a_price("0.35", LONG_AGO))
    placements = {Step.PREPARE: A100, Step.TRAIN: T4, Step.EVALUATE: T4}
    assert asked(placements, card) is not None
    assert asked(placements, card, done=(Step.PREPARE,)) is None


def test_without_a_limit_no_rate_is_needed() -> None:
    assert asked(dict.fromkeys(Step, T4), spec={}) is None
    assert asked({}, spec={"budget": {"maxGpuHours": "5"}}) is None


@pytest.mark.parametrize("spec", [{}, LIMITED])
def test_a_price_in_another_currency_than_what_was_used_holds_with_or_without_a_limit(
    spec: dict[str, object],
) -> None:
    euros = a_card(a_price("0.35", LONG_AGO, gpu_type="A100"), name="lease", currency="EUR")
    dollars = a_card(a_price("0.35", LONG_AGO))
    placements = {Step.PREPARE: T4, Step.TRAIN: A100, Step.EVALUATE: T4}
    finding = asked(placements, dollars, euros, spec=spec)
    assert finding is not None
    assert (finding.verdict, finding.reason) == (Verdict.HOLD, Reason.CURRENCY_MISMATCH)
    assert "lease" in finding.message
    assert "train" in finding.message


def test_a_limit_in_another_currency_than_the_rates_holds() -> None:
    finding = asked(
        dict.fromkeys(Step, T4),
        a_card(a_price("0.35", LONG_AGO), name="lease", currency="EUR"),
        counted_in="EUR",
    )
    assert finding is not None
    assert finding.reason == Reason.CURRENCY_MISMATCH
    assert "budget.currency is USD" in finding.message


def test_a_job_that_was_admitted_stays_admitted_while_it_is_held() -> None:
    conditions = with_condition(
        (), ConditionType.ADMITTED, "True", Reason.ADMITTED, "", now=START, generation=1
    )
    observed = Observed(
        job=a_job(**LIMITED),
        engine=EngineFacts(device="cuda", placements=dict.fromkeys(Step, T4)),
    )
    finding = pricing(
        Situation(
            observed=observed,
            now=START,
            status=JobStatus(conditions=conditions),
            records=(),
            totals=totals((), "USD", START),
        )
    )
    assert finding is not None
    assert finding.admitted
