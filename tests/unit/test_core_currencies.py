"""A job is counted in one currency; cards of others neither halt its looks nor keep it waiting."""

from datetime import timedelta

import pytest

from finetune_api.phases import Phase, Reason
from finetune_api.ratecard import RateCard
from finetune_api.report import Step
from finetune_api.times import format_time
from harness.scripted import World, a_card, a_job, drive


def from_then_on(card: RateCard, world: World, seconds: float) -> RateCard:
    """The card under another name, in effect in so many seconds."""
    (entry,) = card.spec.entries
    moment = format_time(world.now + timedelta(seconds=seconds))
    spec = card.spec.model_copy(
        update={"entries": (entry.model_copy(update={"effective_from": moment}),)}
    )
    metadata = card.metadata.model_copy(update={"name": "another"})
    return card.model_copy(update={"metadata": metadata, "spec": spec})


@pytest.mark.parametrize("spec", [{}, {"budget": {"maxCost": "5"}}], ids=["free", "limited"])
async def test_a_price_in_another_currency_that_comes_into_effect_amid_a_run_waits_for_its_end(
    spec: dict[str, object],
) -> None:
    world = World(job=a_job(**spec), cards=(a_card("0.36"),))
    await drive(world, until=lambda _: world.checkpoint > 0)
    world.cards = (*world.cards, from_then_on(a_card("0.5", "EUR"), world, 5))
    await drive(world)
    status = world.status
    assert status is not None
    assert status.reason == Reason.CURRENCY_MISMATCH
    (training,) = [r for r in world.records.values() if r.spec.step is Step.TRAIN]
    rates = {entry.rate and entry.rate.currency for entry in training.spec.entries}
    assert (rates, training.spec.sealed) == ({"USD"}, True)
    world.cards = (a_card("0.36"),)
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE


@pytest.mark.parametrize("spec", [{}, {"budget": {"maxCost": "5"}}], ids=["free", "limited"])
async def test_a_card_in_another_currency_that_prices_nothing_of_a_job_does_not_hold_it(
    spec: dict[str, object],
) -> None:
    (entry,) = a_card().spec.entries
    elsewhere = a_card("2", "EUR")
    elsewhere = elsewhere.model_copy(
        update={
            "metadata": elsewhere.metadata.model_copy(update={"name": "a-first"}),
            "spec": elsewhere.spec.model_copy(
                update={"entries": (entry.model_copy(update={"name": "not-here"}),)}
            ),
        }
    )
    world = World(job=a_job(**spec), cards=(elsewhere, a_card("0.36")))
    await drive(world)
    assert world.status is not None
    assert world.status.phase is Phase.COMPLETE
    assert world.status.cost is not None
    assert world.status.cost.currency == "USD"
