"""The groups in a status: few, the worst first, and never too long."""

from typing import Any

import pytest

from finetune_api.evaluationreport import (
    CounterfactualsReport,
    EvaluationReport,
    Interval,
    SwapScores,
)
from finetune_api.status import EvaluationStatus
from finetune_operator.core.groups import STATUS_BYTES, group_differences, within_bytes
from finetune_operator.core.intake import verdict
from unit.builders_page import a_contrast, a_group, a_shortfall, evaluated, groups


def test_found_ones_come_first_the_worst_of_them_before_the_others() -> None:
    told = group_differences(evaluated(groups=groups()))
    assert [(one.group, one.metric, one.found) for one in told] == [
        ("tweets", "selectionRate", True),
        ("tweets", "falsePositiveRate", True),
        ("tweets", "accuracy", True),
        ("editorials", "falsePositiveRate", True),
        ("letters", "accuracy", False),
        ("editorials", "accuracy", False),
    ]
    assert told[4].difference is None, "too few rows"
    assert (told[2].value, told[2].rows) == (0.781, 380)
    assert {one.column for one in told} == {"domain"}


def many(columns: int) -> list[dict[str, Any]]:
    """As many groups as there may be, with names as long as they may be, all of them found."""
    return [
        {
            "column": f"{number}" * 253,
            "groups": [
                a_group(
                    f"{place:02d}" + "é" * 61, 30, a_contrast("accuracy", 0.1 / 3, 0.9, found=True)
                )
                for place in range(20)
            ],
        }
        for number in range(columns)
    ]


def largest() -> EvaluationReport:
    rows = [
        {
            "label": f"{n:02d}" + "x" * 60,
            "precision": 1 / 3,
            "recall": 1 / 3,
            "f1": 1 / 3,
            "support": 1,
        }
        for n in range(200)
    ]
    return evaluated(groups=many(3), perClass=rows, labels=[row["label"] for row in rows])


def test_the_verdict_in_a_status_is_at_most_8_kib() -> None:
    report = largest()
    wide = Interval(value=0.123456789012345, low=0.123456789012345, high=0.123456789012345)
    status = EvaluationStatus(
        passed=True,
        test_rows=report.test_rows,
        checkpoint_step=1,
        metrics=report.metrics,
        baselines=report.baselines,
        gate=report.gate,
        groups=group_differences(report),
        per_class=report.per_class[:20],
        report="output/evaluation.json",
        report_digest=report.split_digest,
    )
    kept = within_bytes(status)
    size = len(kept.model_dump_json(by_alias=True, exclude_none=True).encode())
    assert size <= STATUS_BYTES
    assert kept.groups == status.groups, "the classes go before them"
    assert len(kept.groups) == 12
    one = SwapScores(
        name="s" * 63,
        rows=2000,
        flip_rate=wide,
        change=wide,
        excess=wide,
        p_value=0.123456789012345,
    )
    swaps = CounterfactualsReport(neutral=one, swaps=(one,) * 12)
    with_swaps = within_bytes(status.model_copy(update={"counterfactuals": swaps}))
    assert (
        len(with_swaps.model_dump_json(by_alias=True, exclude_none=True).encode()) <= STATUS_BYTES
    )
    small = status.model_copy(update={"groups": (), "per_class": ()})
    assert within_bytes(small) == small


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            (
                "Gate fair (Point): accuracy is worse by 0.0810 [0.051, 0.111] for domain tweets "
                "than for the rest, at most 0.05 is allowed."
            ),
        ),
        (
            {"metric": "selectionRate", "label": "positive"},
            "selection rate of positive differs by 0.0810 [0.051, 0.111] for domain tweets",
        ),
        (
            {"shortfall": None, "measured": None, "insufficient": True},
            "domain tweets has too few rows to compare its accuracy, and at most 0.05 is allowed.",
        ),
    ],
)
def test_a_failed_requirement_on_groups_is_said_with_group_figure_and_interval(
    changes: dict[str, Any], said: str
) -> None:
    result = a_shortfall(**changes)
    assert said in verdict(evaluated(gate=[result], passed=False))
