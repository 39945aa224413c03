"""What the job cost, by class of time and by attempt. Called by ``render``.

Every amount is the status's own; nothing is priced or summed anew.
"""

from dataclasses import dataclass
from decimal import Decimal

from finetune_api.status import ClassShare, CostStatus
from finetune_api.usage import CopiedRate, TimeClass
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.facts import PageFacts

_MEANING: dict[str, str] = {
    TimeClass.PULLING: "fetching images",
    TimeClass.GANG_WAIT: "waiting for the rest of the gang",
    TimeClass.INIT: "starting: imports, model, data",
    TimeClass.PRODUCTIVE: "work that was kept",
    TimeClass.CHECKPOINT: "saving",
    TimeClass.STALLED: "standing still",
    TimeClass.LOST: "work done again after an end",
    TimeClass.TEARDOWN: "ending",
    TimeClass.UNKNOWN: "not known",
}
_NAMES = {TimeClass.GANG_WAIT: "gang wait"}


@dataclass(frozen=True)
class CostClass:
    """One class of time: ``start`` and ``share`` are percent of all device time."""

    key: str
    name: str
    meaning: str
    device_time: str
    share: str
    cost: str
    start: float
    width: float


@dataclass(frozen=True)
class Rate:
    """A price that a record was made with."""

    price: str
    entry: str
    card: str


@dataclass(frozen=True)
class Costs:
    """The section on money."""

    spent: str
    wasted: str
    projected: str | None
    projected_high: str | None
    held: tuple[tuple[str, str], ...]
    unpriced: str | None
    limit: str | None
    classes: tuple[CostClass, ...]
    rates: tuple[Rate, ...]
    device_time: str
    fake_gpu: bool


def costs(facts: PageFacts) -> Costs | None:
    """What the status says of money, with the rates of the records; None before anything ran."""
    cost = facts.status.cost
    if cost is None:
        return None
    open_still = facts.status.completion_time is None
    budget = facts.job.spec.budget
    return Costs(
        spent=spent(cost),
        wasted=figures.money(cost.wasted, cost.currency),
        projected=_money(cost.projected, cost.currency) if open_still else None,
        projected_high=_money(cost.projected_p90, cost.currency) if open_still else None,
        held=_held(cost),
        unpriced=figures.hours(cost.unpriced_hours) if Decimal(cost.unpriced_hours) else None,
        limit=_money(budget.max_cost, budget.currency),
        classes=_classes(cost),
        rates=_rates(facts),
        device_time=figures.seconds(float(_total(cost.classes))),
        fake_gpu=cost.fake_gpu,
    )


def spent(cost: CostStatus) -> str:
    """What was spent; hours that have no rate are never shown as nothing spent."""
    if Decimal(cost.unpriced_hours) and not Decimal(cost.spent):
        return "unpriced"
    return figures.money(cost.spent, cost.currency)


def _money(amount: str | None, currency: str) -> str | None:
    return None if amount is None else figures.money(amount, currency)


def _held(cost: CostStatus) -> tuple[tuple[str, str], ...]:
    pairs = (("GPUs", cost.gpu_hours), ("ranks on the CPU", cost.rank_hours))
    return tuple((name, figures.hours(amount)) for name, amount in pairs if Decimal(amount))


def _total(classes: tuple[ClassShare, ...]) -> Decimal:
    return sum((Decimal(share.device_seconds) for share in classes), Decimal(0))


def _classes(cost: CostStatus) -> tuple[CostClass, ...]:
    total = _total(cost.classes)
    rows: list[CostClass] = []
    start = Decimal(0)
    for share in cost.classes:
        seconds = Decimal(share.device_seconds)
        part = seconds / total if total else Decimal(0)
        rows.append(
            CostClass(
                key=share.name,
                name=_NAMES.get(TimeClass(share.name), share.name),
                meaning=_MEANING[share.name],
                device_time=figures.seconds(float(seconds)),
                share=figures.with_percent(float(part)),
                cost=_class_cost(share, cost),
                start=round(float(100 * start), 3),
                width=round(float(100 * part), 3),
            )
        )
        start += part
    return tuple(rows)


def _class_cost(share: ClassShare, cost: CostStatus) -> str:
    if Decimal(cost.unpriced_hours) and not Decimal(share.cost):
        return "unpriced"
    return figures.money_in_column(share.cost, cost.currency, figures.money_places(cost.spent))


def _rates(facts: PageFacts) -> tuple[Rate, ...]:
    """Each price once, in the order in which the records name them."""
    copied: dict[CopiedRate, None] = {}
    for record in facts.records:
        copied.update({e.rate: None for e in record.spec.entries if e.rate is not None})
    return tuple(
        Rate(figures.money(rate.price_per_hour, rate.currency), rate.entry, rate.card)
        for rate in copied
    )
