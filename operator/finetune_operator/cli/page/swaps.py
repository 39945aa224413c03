"""Whether terms matter that should not: the counterfactual swaps. Called by ``evidence``."""

from dataclasses import dataclass

from finetune_api.evaluationreport import CounterfactualsReport, SwapScores
from finetune_operator.cli.page import figures


@dataclass(frozen=True)
class SwapRow:
    """One swap, or the control, as text; ``worse`` where it does more than chance allows."""

    name: str
    rows: str
    flips: str
    change: str
    excess: str
    worse: bool


@dataclass(frozen=True)
class SwapTable:
    """All swaps, the control last; ``has_flips`` is false where answers are numbers."""

    sentence: str
    rows: tuple[SwapRow, ...]
    has_flips: bool


def swaps(report: CounterfactualsReport | None) -> SwapTable | None:
    """The table; None where nothing was swapped."""
    if report is None:
        return None
    everything = (*report.swaps, report.neutral)
    return SwapTable(
        sentence=_sentence(report),
        rows=tuple(_row(one, is_control=one is report.neutral) for one in everything),
        has_flips=any(one.flip_rate is not None for one in everything),
    )


def _row(one: SwapScores, *, is_control: bool) -> SwapRow:
    excess = figures.interval(one.excess)
    if one.insufficient:
        excess = "too few rows"
    return SwapRow(
        name="neutral words (the control)" if is_control else one.name,
        rows=figures.count(one.rows),
        flips=figures.interval(one.flip_rate),
        change=figures.interval(one.change),
        excess="" if is_control and not one.insufficient else excess,
        worse=one.found,
    )


def _sentence(report: CounterfactualsReport) -> str:
    found = [one for one in report.swaps if one.found]
    short = [one.name for one in report.swaps if one.insufficient]
    told = "No swap is found to change answers more than neutral words do."
    if found:
        told = f"It is found to answer by {_listed([one.name for one in found])}: "
        told += "; ".join(_told(one, report.neutral) for one in found) + "."
    elif len(short) == len(report.swaps):
        told = "No swap has rows enough to be compared with the neutral one."
    if short and len(short) < len(report.swaps):
        told += f" Too few rows to compare: {_listed(short)}."
    return told


def _told(one: SwapScores, neutral: SwapScores) -> str:
    if one.flip_rate is None or neutral.flip_rate is None:
        assert one.change is not None, "what is found has rows"
        assert neutral.change is not None, "what is found has rows"
        return (
            f"swapping {one.name} moves the answer by {figures.score(one.change.value)} on "
            f"average, neutral words by {figures.score(neutral.change.value)}"
        )
    return (
        f"swapping {one.name} changes {figures.with_percent(one.flip_rate.value)} of the answers, "
        f"neutral words {figures.with_percent(neutral.flip_rate.value)}"
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
