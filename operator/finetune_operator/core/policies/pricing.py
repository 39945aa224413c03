"""Under a money limit nothing is released that has no price, or one in another currency."""

from finetune_api.phases import ConditionType, Reason
from finetune_operator.core.conditions import is_true
from finetune_operator.core.situation import Finding, Situation, Verdict
from finetune_operator.cost.rates import find_rate


def pricing(situation: Situation) -> Finding | None:
    """Hold while the place where pods would run has no rate, or one that can't be added up."""
    observed = situation.observed
    budget = observed.job.spec.budget
    placement = observed.engine.placement
    if placement is None:
        return None
    admitted = is_true(situation.status.conditions, ConditionType.ADMITTED)
    rate = find_rate(observed.rate_cards, placement, situation.now)
    counted_in = situation.totals.spent.currency
    if rate is not None and rate.currency != counted_in:
        return Finding(
            verdict=Verdict.HOLD,
            reason=Reason.CURRENCY_MISMATCH,
            message=f"the job's use is counted in {counted_in}, but rate card {rate.card} is in "
            f"{rate.currency} now: price the device in {counted_in}",
            admitted=admitted,
        )
    if budget.max_cost is None:
        return None
    if rate is None:
        entry = "named local" if placement.local else f"for gpuType {placement.device}"
        return Finding(
            verdict=Verdict.HOLD,
            reason=Reason.RATE_MISSING,
            message=f"spec.budget.maxCost is set, but no rate card has an entry {entry} that is in "
            "effect: add one, or remove maxCost (use is then shown as unpriced)",
            admitted=admitted,
        )
    if rate.currency != budget.currency:
        return Finding(
            verdict=Verdict.HOLD,
            reason=Reason.CURRENCY_MISMATCH,
            message=f"spec.budget.currency is {budget.currency}, but rate card {rate.card} is in "
            f"{rate.currency}: state the limit in {rate.currency}",
            admitted=admitted,
        )
    return None
