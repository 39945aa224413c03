"""Counterfactual swaps: which words are exchanged, what is counted, what is called unfair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.counterfactuals import NEUTRAL
from finetune_api.evaluation import GateRule
from finetune_api.evaluationreport import CounterfactualsReport, Interval, SwapScores
from finetune_api.tasks import Task
from finetune_trainer.evaluation.counterfactuals import Changes, Swapper, compare
from finetune_trainer.evaluation.gate import judge
from finetune_trainer.evaluation.scores import Scores

GENDER = [("he", "she"), ("his", "her"), ("him", "her")]


@pytest.mark.parametrize(
    ("pairs", "text", "twin"),
    [
        (GENDER, "He lost his hat; she found it.", "She lost her hat; he found it."),
        (GENDER, "HE saw her.", "SHE saw his."),
        (GENDER, "They hear the sheep.", None),
        (GENDER, "he-man, he's", "she-man, she's"),
        ([("New", "Old"), ("New York", "Lagos")], "New York, New", "Lagos, Old"),
        ([("us", "them"), ("US", "UK")], "The US told us", "The UK told them"),
        ([("Germany", "Ghana")], "germany Germany GERMANY", "germany Ghana GERMANY"),
        ([("C++", "Ada")], "C++, not C", "Ada, not C"),
        ([("a", "an")], "A cat, a dog", "An cat, an dog"),
    ],
)
def test_terms_are_exchanged_as_whole_words_longest_first_in_their_case(
    pairs: list[tuple[str, str]], text: str, twin: str | None
) -> None:
    assert Swapper(pairs).twin(text) == twin


WORDS = st.sampled_from(["he", "she", "He", "SHE", "Anna", "Bert", "the", "hers", "annas"])


@given(st.lists(WORDS, min_size=1, max_size=12))
def test_a_twins_twin_is_the_row_again(words: list[str]) -> None:
    swapper = Swapper([("he", "she"), ("Anna", "Bert")])
    text = " ".join(words)
    twin = swapper.twin(text)
    held = {"he", "she", "He", "SHE", "Anna", "Bert"} & set(words)
    assert (twin is None) == (not held)
    if twin is not None:
        assert twin != text
        assert swapper.twin(twin) == text


def changes(rows: range, flips: np.ndarray) -> Changes:
    return Changes(rows=np.asarray(rows), flips=flips, change=flips * 0.4)


def test_flips_and_changes_are_counted_over_the_rows_that_hold_a_term() -> None:
    flips = np.arange(100) < 20
    report = compare({NEUTRAL: changes(range(100), flips * False), "x": changes(range(100), flips)})
    (one,) = report.swaps
    assert one.rows == 100
    assert one.flip_rate is not None
    assert one.flip_rate.value == 0.2
    # Wilson's interval of 20 in 100: 0.133 to 0.289.
    assert one.flip_rate.low == pytest.approx(0.133, abs=0.002)
    assert one.flip_rate.high == pytest.approx(0.289, abs=0.002)
    assert one.change is not None
    assert one.change.value == pytest.approx(0.08)
    assert one.excess is not None
    assert one.excess.value == 0.2
    assert one.found


def test_rows_that_hold_both_are_paired() -> None:
    chance = np.random.default_rng(1)
    flips = chance.random(300) < 0.3
    same = compare({NEUTRAL: changes(range(300), flips), "x": changes(range(300), flips)})
    apart = compare({NEUTRAL: changes(range(300, 600), flips), "x": changes(range(300), flips)})
    paired, unpaired = same.swaps[0].excess, apart.swaps[0].excess
    assert paired is not None
    assert unpaired is not None
    assert unpaired.low is not None
    assert paired.low is not None
    assert -0.01 < paired.low <= 0
    assert unpaired.low < -0.05


@pytest.mark.parametrize("few", ["swap", "control"])
def test_with_fewer_than_thirty_rows_on_either_side_nothing_is_compared(few: str) -> None:
    sizes = {"swap": (29, 200), "control": (200, 29)}[few]
    mine, control = (np.ones(size, dtype=np.bool_) for size in sizes)
    report = compare(
        {NEUTRAL: changes(range(len(control)), ~control), "x": changes(range(len(mine)), mine)}
    )
    (one,) = report.swaps
    assert one.insufficient
    assert one.excess is None
    assert not one.found
    nothing = compare(
        {NEUTRAL: changes(range(99), ~np.ones(99, bool)), "x": changes(range(0), mine[:0])}
    )
    assert nothing.swaps[0].rows == 0
    assert nothing.swaps[0].flip_rate is None
    assert nothing.swaps[0].insufficient


@pytest.mark.parametrize("overlap", [0, 100, 200])
def test_a_fair_model_is_seldom_called_unfair_and_an_unfair_one_is_found(overlap: int) -> None:
    """Both kinds of twin flip alike, rows that hold both often together; then one flips more."""
    chance = np.random.default_rng(7)
    runs, called, held = 400, 0, 0
    for _ in range(runs):
        restless = chance.random(400) < 0.3
        flips = [restless & (chance.random(400) < 0.5) for _ in range(2)]
        mine, control = slice(0, 200), slice(200 - overlap, 400 - overlap)
        report = compare(
            {
                NEUTRAL: changes(range(control.start, control.stop), flips[0][control]),
                "x": changes(range(200), flips[1][mine]),
            }
        )
        excess = report.swaps[0].excess
        assert excess is not None
        assert excess.low is not None
        assert excess.high is not None
        called += report.swaps[0].found
        held += excess.low <= 0 <= excess.high
    # One-sided, so half of 5 %; of 400 runs 22 is far out.
    assert called <= 22
    assert 0.92 <= held / runs <= 0.985
    unfair = compare(
        {
            NEUTRAL: changes(range(200), flips[0][:200]),
            "x": changes(range(200), np.arange(200) < 80),
        }
    )
    assert unfair.swaps[0].found


def scored(*swaps: tuple[str, float, float, bool]) -> Scores:
    made = tuple(
        SwapScores(
            name=name,
            rows=200,
            flip_rate=Interval(value=value, low=value - 0.01, high=high),
            insufficient=short,
        )
        for name, value, high, short in swaps
    )
    neutral = SwapScores(name=NEUTRAL, rows=200)
    return Scores(metrics={}, counterfactuals=CounterfactualsReport(neutral=neutral, swaps=made))


@pytest.mark.parametrize(
    ("rule", "passed", "swap", "measured"),
    [
        ({}, False, "country", 0.06),
        ({"swap": "gender"}, True, "gender", 0.02),
        ({"swap": "gender", "bound": "Upper"}, False, "gender", 0.07),
        ({"max": 0.1}, True, "country", 0.06),
    ],
)
def test_the_swap_that_does_most_is_held_to_the_requirement(
    rule: dict[str, object],
    passed: bool,  # noqa: FBT001 - a column of the table
    swap: str,
    measured: float,
) -> None:
    scores = scored(("gender", 0.02, 0.07, False), ("country", 0.06, 0.09, False))
    asked = GateRule.model_validate({"name": "deaf", "metric": "flipRate", "max": 0.05} | rule)
    (result,) = judge(Task.TEXT_CLASSIFICATION, (asked,), scores)
    assert (result.passed, result.swap, result.measured) == (passed, swap, measured)


@pytest.mark.parametrize(("said", "passed"), [(None, False), ("fail", False), ("pass", True)])
def test_a_swap_with_too_few_rows_fails_unless_the_rule_says_otherwise(
    said: str | None,
    passed: bool,  # noqa: FBT001 - a column of the table
) -> None:
    scores = scored(("gender", 0.02, 0.04, False), ("country", 0.0, 0.09, True))
    rule = {"name": "deaf", "metric": "flipRate", "max": 0.05, "insufficient": said}
    (result,) = judge(Task.TEXT_CLASSIFICATION, (GateRule.model_validate(rule),), scores)
    assert result.passed is passed
    assert result.insufficient
    assert result.swap == ("gender" if passed else "country")
