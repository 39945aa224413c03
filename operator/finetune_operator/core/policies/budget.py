"""A job's own limit in money and device-hours: it stops early enough that saving still fits.

What is asked is whether going on could pass the limit before the work is saved. While nothing runs
the same is asked of a gang that would be started, start-up included; so a job that was stopped
stays stopped until its limit is raised.
"""

import math
from datetime import timedelta
from fractions import Fraction

from finetune_api.phases import ConditionType, Reason
from finetune_api.report import Step
from finetune_operator.core.conditions import is_true
from finetune_operator.core.policies.deadline import active_time
from finetune_operator.core.resolve import gang_of
from finetune_operator.core.situation import Finding, Situation, Verdict
from finetune_operator.cost.budget import stop_at
from finetune_operator.cost.ledger import burn_rate
from finetune_operator.cost.money import Money, display, parse_decimal
from finetune_operator.cost.rates import find_rate, hourly_price

_HOUR = 3600
_STARTUP_SECONDS = 20
"""What a start costs at least before its first step; a resume that can't pay it is no use."""


def budget(situation: Situation) -> Finding | None:
    """Suspend when the money or the device-hours left no longer cover going on and saving."""
    spec = situation.observed.job.spec
    devices = _devices(situation)
    findings = (
        _over_cost(situation, spec.budget.max_cost, devices),
        _over_hours(situation, spec.budget.max_gpu_hours, devices),
    )
    message = next((finding for finding in findings if finding), None)
    if message is None:
        return None
    if not is_true(situation.status.conditions, ConditionType.ADMITTED):
        return Finding(
            verdict=Verdict.HOLD, reason=Reason.BUDGET_TOO_SMALL, message=message, admitted=False
        )
    return Finding(verdict=Verdict.SUSPEND, reason=Reason.BUDGET_EXCEEDED, message=message)


def _devices(situation: Situation) -> Fraction:
    """Devices held now, or those that the next step would hold."""
    live = [pod.placement for pod in situation.live_pods if pod.placement and pod.bound_at]
    if live:
        return Fraction(sum(placement.milli_devices for placement in live), 1000)
    resolved = situation.status.resolved
    if resolved is None:
        return Fraction(1)
    return Fraction(gang_of(_next_step(situation), resolved).world_size)


def _next_step(situation: Situation) -> Step:
    return next((step for step in Step if not situation.completed(step)), Step.EVALUATE)


def _reserve_seconds(situation: Situation) -> Fraction:
    """Seconds to keep for saving: the grace, which is the longest that a save may take."""
    reserve = Fraction(situation.observed.job.spec.policy.grace_period_seconds)
    return reserve if situation.live_pods else reserve + _STARTUP_SECONDS


def _over_cost(situation: Situation, limit: str | None, devices: Fraction) -> str | None:
    if limit is None:
        return None
    spent = situation.totals.spent
    burn = _burn_per_hour(situation, devices)
    threshold = stop_at(
        parse_decimal(limit),
        burn,
        _reserve_seconds(situation),
        Fraction(situation.observed.engine.control_interval_seconds),
    )
    if spent.amount < threshold:
        return None
    needed = display(Money(burn, spent.currency))
    return (
        f"Spent {display(spent)} of budget.maxCost {limit}, at {needed} per hour: going on could "
        "pass the limit before the work is saved. Raise budget.maxCost to go on, or lower "
        "policy.gracePeriodSeconds if saving takes less."
    )


def _burn_per_hour(situation: Situation, devices: Fraction) -> Fraction:
    """What is burnt now, or would be by the next step where nothing runs."""
    now = burn_rate(situation.records, situation.totals.spent.currency).amount
    placement = situation.observed.engine.placements.get(_next_step(situation))
    if now or placement is None:
        return now
    rate = find_rate(situation.observed.rate_cards, placement, situation.now)
    return hourly_price(rate, 1000) * devices if rate else now


def _over_hours(situation: Situation, limit: str | None, devices: Fraction) -> str | None:
    if limit is None:
        return None
    totals = situation.totals
    used = Fraction(totals.gpu_milliseconds + totals.rank_milliseconds, 3_600_000)
    threshold = stop_at(
        parse_decimal(limit),
        devices,
        _reserve_seconds(situation),
        Fraction(situation.observed.engine.control_interval_seconds),
    )
    if used < threshold:
        return None
    return (
        f"Used {float(used):.4f} of budget.maxGpuHours {limit}: going on could pass the limit "
        "before the work is saved. Raise budget.maxGpuHours to go on."
    )


def seconds_left(situation: Situation) -> int | None:
    """How long the next gang could run before a limit is passed; None where there is none.

    An engine that can end a gang by itself is told: should nobody look any more, it still ends.
    """
    spec, devices = situation.observed.job.spec, _devices(situation)
    left: list[Fraction] = []
    if spec.budget.max_cost is not None:
        burn = _burn_per_hour(situation, devices)
        rest = parse_decimal(spec.budget.max_cost) - situation.totals.spent.amount
        left += [rest / burn * _HOUR] if burn else []
    if spec.budget.max_gpu_hours is not None:
        totals = situation.totals
        used = Fraction(totals.gpu_milliseconds + totals.rank_milliseconds, 1000 * _HOUR)
        left.append((parse_decimal(spec.budget.max_gpu_hours) - used) / devices * _HOUR)
    if spec.policy.active_deadline_seconds is not None:
        used_seconds = Fraction(active_time(situation) // timedelta(milliseconds=1), 1000)
        left.append(spec.policy.active_deadline_seconds - used_seconds)
    return max(1, math.floor(min(left))) if left else None
