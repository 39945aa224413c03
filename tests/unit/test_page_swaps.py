"""The page's section on swapped terms: what is found, beside the control, and what is unknown."""

import dataclasses
from typing import Any

from finetune_operator.cli.page import PageFacts
from unit.builders_page import a_gate_result, an_interval, complete, evaluated
from unit.test_page import read


def a_swap(name: str, rate: float, *, excess: float | None = None, **more: Any) -> dict[str, Any]:
    """What a swap does to 200 rows, as JSON."""
    told = {} if excess is None else {"excess": an_interval(excess, excess - 0.04, excess + 0.04)}
    return {
        "name": name,
        "rows": 200,
        "flipRate": an_interval(rate, rate - 0.03, rate + 0.03),
        "change": an_interval(rate / 2, rate / 2 - 0.01, rate / 2 + 0.01),
        **told,
        **more,
    }


def with_swaps(*swaps: dict[str, Any], **changes: Any) -> PageFacts:
    report = {"neutral": a_swap("neutral", 0.04), "swaps": list(swaps)}
    return dataclasses.replace(complete(), evaluation=evaluated(counterfactuals=report, **changes))


def test_a_swap_that_does_more_than_neutral_words_is_named_with_both_rates() -> None:
    found = a_swap("gender", 0.21, excess=0.17, found=True, pValue=0.001)
    text = read(with_swaps(found, a_swap("country", 0.05, excess=0.01, pValue=0.6))).text
    assert "Does it answer by what should not matter?" in text
    assert "It is found to answer by gender: swapping gender changes 21" in text
    assert (
        "gender 200 0.210 [0.180, 0.240] 0.105 [0.095, 0.115] 0.170 [0.130, 0.210] ✗ more" in text
    )
    assert "neutral words (the control) 200 0.040 [0.010, 0.070]" in text
    assert text.count("✗ more") == 1


def test_too_few_rows_are_said_and_never_called_fair() -> None:
    short = a_swap("age", 0.5, rows=4, insufficient=True)
    text = read(with_swaps(short)).text
    assert "No swap has rows enough to be compared with the neutral one." in text
    assert "too few rows" in text
    both = read(with_swaps(short, a_swap("gender", 0.04, excess=0.0, pValue=1))).text
    assert "Too few rows to compare: age." in both


def test_of_numbers_the_change_is_told() -> None:
    moved = a_swap("gender", 24.0, excess=20.0, found=True, pValue=0.001)
    neutral = a_swap("neutral", 4.0)
    for one in (moved, neutral):
        one.pop("flipRate")
    report = {"neutral": neutral, "swaps": [moved]}
    facts = dataclasses.replace(complete(), evaluation=evaluated(counterfactuals=report))
    text = read(facts).text
    assert "swapping gender moves the answer by 12.0" in text
    assert "Flip rate" not in text


def test_a_requirement_names_the_swap() -> None:
    missed = a_gate_result("deaf", 0.05, 0.21) | {"metric": "flipRate", "swap": "gender"}
    missed["passed"] = False
    found = a_swap("gender", 0.21, excess=0.17, found=True, pValue=0.001)
    text = read(with_swaps(found, gate=[missed], passed=False)).text
    assert "flip rate, of swap gender" in text


def test_without_swaps_the_page_has_no_section_on_them() -> None:
    assert "what should not matter" not in read(complete()).text
