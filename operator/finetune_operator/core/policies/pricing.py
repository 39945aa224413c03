"""Under a money limit nothing is released that has no price, or one in another currency."""

from collections.abc import Sequence

from finetune_api.phases import ConditionType, Reason
from finetune_api.report import Step
from finetune_operator.core.conditions import is_true
from finetune_operator.core.situation import Finding, Situation, Verdict
from finetune_operator.cost.rates import find_rate, missing_entries


def pricing(situation: Situation) -> Finding | None:
    """Hold while the place of a step to come has no rate, or one that can't be added up.

    All steps are asked before the first one costs anything. A step whose place is not known has no
    price yet either.
    """
    limited = situation.observed.job.spec.budget.max_cost is not None
    coming = [step for step in Step if not situation.completed(step)]
    held = _in_another_currency(situation, coming)
    if held is None and limited:
        held = _without_a_rate(situation, coming)
    if held is None:
        return None
    reason, message = held
    return Finding(
        verdict=Verdict.HOLD,
        reason=reason,
        message=message,
        admitted=is_true(situation.status.conditions, ConditionType.ADMITTED),
    )


def _in_another_currency(situation: Situation, steps: Sequence[Step]) -> tuple[str, str] | None:
    observed, budget = situation.observed, situation.observed.job.spec.budget
    counted_in = situation.totals.spent.currency
    for step in steps:
        placement = observed.engine.placements.get(step)
        if placement is None:
            continue
        rate = find_rate(observed.rate_cards, placement, situation.now)
        if rate is None:
            continue
        if rate.currency != counted_in:
            return Reason.CURRENCY_MISMATCH, (
                f"the job's use is counted in {counted_in}, but rate card {rate.card} is in "
                f"{rate.currency} now: price the device of {step} in {counted_in}"
            )
        if budget.max_cost is not None and rate.currency != budget.currency:
            return Reason.CURRENCY_MISMATCH, (
                f"spec.budget.currency is {budget.currency}, but rate card {rate.card}, which "
                f"prices {step}, is in {rate.currency}: state the limit in {rate.currency}"
            )
    return None


def _without_a_rate(situation: Situation, steps: Sequence[Step]) -> tuple[str, str] | None:
    """Name every entry that is missing, each with the steps that need it."""
    observed = situation.observed
    wanted: dict[str, list[Step]] = {}
    for step in steps:
        placement = observed.engine.placements.get(step)
        if placement is None:
            return Reason.RATE_MISSING, (
                f"spec.budget.maxCost is set, but what {step} would run on, and so its price, is "
                "not known: set spec.compute.gpuType, or remove maxCost (use is then shown as "
                "priced where it ran)"
            )
        for entry in missing_entries(observed.rate_cards, placement, situation.now):
            wanted.setdefault(entry, []).append(step)
    if not wanted:
        return None
    entries = " and ".join(
        f"{entry} (for {', '.join(needing)})" for entry, needing in wanted.items()
    )
    return Reason.RATE_MISSING, (
        f"spec.budget.maxCost is set, but no rate card has an entry {entries} that is in effect: "
        "add it, or remove maxCost (use is then shown as unpriced)"
    )
