"""Whether a conventional baseline already meets the gate, by its figures on the select rows.

Called by ``intake`` once the prepare step has told them.
"""

from collections.abc import Sequence

from finetune_api.datareport import BaselineFit
from finetune_api.evaluation import GateRule
from finetune_api.tasks import BASELINES, METRICS


def passing(gate: Sequence[GateRule], baselines: Sequence[BaselineFit]) -> BaselineFit | None:
    """The last baseline that meets every requirement; None without one, and without a gate.

    What can't be asked of a baseline is not met by one: the error reduction against a baseline, and
    what is required of groups and of swaps.
    """
    if not gate:
        return None
    return next((one for one in reversed(baselines) if _meets(gate, one)), None)


def _meets(gate: Sequence[GateRule], baseline: BaselineFit) -> bool:
    measured = [None if rule.group else _measured(rule, baseline) for rule in gate]
    return all(
        side is not None and rule.holds(side) for rule, side in zip(gate, measured, strict=True)
    )


def _measured(rule: GateRule, baseline: BaselineFit) -> float | None:
    figure = baseline.metrics.get(rule.metric)
    return None if figure is None else rule.side(figure)


def passing_sentence(gate: Sequence[GateRule], baseline: BaselineFit, select_rows: int) -> str:
    """That a baseline meets the gate, with each figure beside its requirement."""
    name = BASELINES[baseline.name]
    figures = ", ".join(_figure(rule, baseline) for rule in gate)
    return (
        f"{name[0].upper()}{name[1:]} meets every requirement of the gate on the {select_rows} "
        f"select rows: {figures}. For that, no GPU is needed."
    )


def _figure(rule: GateRule, baseline: BaselineFit) -> str:
    measured = _measured(rule, baseline)
    assert measured is not None, "a baseline that passes has every figure"
    limit = "at least" if rule.max is None else "at most"
    side = "" if rule.bound == "Point" else f" ({rule.bound})"
    name = METRICS[rule.metric].name
    return f"{name}{side} {measured:.4f}, required {limit} {rule.required:g}"
