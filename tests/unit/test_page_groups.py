"""The page's section on groups: who is found to be worse off, and what may be chance."""

import dataclasses
from typing import Any

import pytest

from finetune_operator.cli.page import PageFacts
from unit.builders_page import a_shortfall, complete, evaluated, groups
from unit.test_page import gate_failed, read


def with_groups(**changes: Any) -> PageFacts:
    return dataclasses.replace(complete(), evaluation=evaluated(**{"groups": groups(), **changes}))


def test_a_group_that_is_found_to_be_worse_off_is_named_with_both_figures() -> None:
    text = read(with_groups()).text
    assert "On whom does it fail?" in text
    assert (
        "It is found to be worse for tweets (accuracy 0.781, the rest 0.862, "
        "false positive rate of positive 0.281, the rest 0.131)." in text
    )
    assert "tweets 380 −0.081 [−0.111, −0.051] ✗ worse +0.191 [0.161, 0.221] positive ≠ dif" in text
    assert "−0.040 [−0.070, −0.010] positive ✓ better" in text
    assert "letters 12 too few rows too few rows too few rows too few rows too few rows" in text


def test_what_may_be_chance_is_not_called_worse() -> None:
    text = read(with_groups(groups=groups(found=False))).text
    assert "No group is found to be worse off than the rest: what differs may be chance." in text
    assert "Too few rows to compare: letters." in text
    assert "✗ worse" not in text
    assert "in orange" not in text


def test_without_groups_the_page_has_no_section_on_them() -> None:
    assert "On whom does it fail?" not in read(complete()).text


@pytest.mark.parametrize(
    ("changes", "line", "sentence"),
    [
        (
            {},
            "fair shortfall of any domain in accuracy ≤ 0.050 0.081 (tweets) ✗ missed",
            "accuracy by domain is short by 0.081 (tweets), at most 0.050 is allowed",
        ),
        (
            {"metric": "falsePositiveRate", "label": "positive"},
            "shortfall of any domain in false positive rate ≤ 0.050 0.081 (tweets, positive)",
            "false positive rate by domain is short by 0.081 (tweets, positive)",
        ),
        (
            {"group": "letters", "measured": None, "shortfall": None, "insufficient": True},
            "≤ 0.050 an unknown amount (too few rows: letters) ✗ missed",
            "accuracy by domain is short by an unknown amount (too few rows: letters)",
        ),
    ],
)
def test_a_requirement_on_groups_names_the_group(
    changes: dict[str, Any], line: str, sentence: str
) -> None:
    text = read(gate_failed(groups=groups(), gate=[a_shortfall(**changes)], model=None)).text
    assert line in text
    assert f"Not exported: {sentence}" in text
