"""Thresholds: the best cut of the select rows, and a half where those don't tell."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import classification, multilabel
from finetune_trainer.evaluation.classification import RowOutputs
from finetune_trainer.evaluation.metrics import Floats
from finetune_trainer.evaluation.multilabel import Flags, LabelOutputs
from finetune_trainer.evaluation.thresholds import FEWEST_ROWS, HALF, Score, f1, mean_f1, threshold


def by_definition(told: Flags, truth: Flags) -> float:
    hits = (told & truth).sum()
    return float(2 * hits / max(1, told.sum() + truth.sum()))


def of_both(told: Flags, truth: Flags) -> float:
    return (by_definition(told, truth) + by_definition(~told, ~truth)) / 2


@given(st.integers(0, 1000), st.integers(30, 120), st.sampled_from([f1, mean_f1]))
@settings(max_examples=60, deadline=None)
def test_no_other_cut_is_better_on_the_select_rows(seed: int, rows: int, score: Score) -> None:
    random = np.random.default_rng(seed)
    truth = random.random(rows) < 0.4
    truth[:FEWEST_ROWS], truth[-FEWEST_ROWS:] = True, False
    # Few distinct values: rows of the same probability can't be told apart.
    raw = np.clip(0.3 * truth + random.random(rows) * 0.6, 0, 1)
    probabilities: Floats = np.round(raw, 1)
    cut = threshold("tune", probabilities, truth, score)
    measured = by_definition if score is f1 else of_both
    best = measured(probabilities >= cut, truth)
    others = [measured(probabilities >= other, truth) for other in np.arange(0.05, 1, 0.1)]
    assert best >= max(others[1:-1]) - 1e-9
    assert best >= measured(probabilities >= HALF, truth) - 1e-9


def test_in_a_tie_the_cut_nearest_to_a_half_is_taken() -> None:
    truth = np.arange(40) >= 20
    sure = np.where(truth, 0.9, 0.2)
    assert threshold("tune", sure, truth, f1) == HALF
    unsure = np.where(truth, 0.4, 0.1)
    assert threshold("tune", unsure, truth, f1) == pytest.approx(0.25)


@pytest.mark.parametrize("having", [0, FEWEST_ROWS - 1, 40 - FEWEST_ROWS + 1, 40])
def test_too_few_select_rows_of_a_kind_leave_a_half(having: int) -> None:
    truth = np.arange(40) < having
    assert threshold("tune", np.where(truth, 0.3, 0.1), truth, f1) == HALF


def test_a_threshold_that_is_given_is_taken() -> None:
    truth = np.arange(40) < 20
    assert threshold("0.125", np.linspace(0, 1, 40), truth, f1) == 0.125


def logits_of(probabilities: Floats) -> Floats:
    return np.log(probabilities / (1 - probabilities))


def test_of_two_classes_the_last_is_told_from_its_threshold_on() -> None:
    last = np.array([0.1, 0.29, 0.31, 0.49, 0.7])
    logits = np.stack([0 * last, logits_of(last)], axis=1).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 1])
    told = [
        RowOutputs(("no", "yes"), labels, logits, {}, threshold=cut).outcomes.predicted[0].tolist()
        for cut in (None, 0.3, 0.8)
    ]
    assert told == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    outputs = RowOutputs(("no", "yes"), labels, logits, {}, threshold=0.3)
    baseline = np.stack([1 - last, last], axis=1)
    beside = RowOutputs(
        ("no", "yes"),
        labels,
        logits,
        {Baseline.TFIDF: baseline},
        baseline_thresholds={Baseline.TFIDF: 0.3},
    )
    assert beside.outcomes.predicted.tolist() == [[0, 0, 0, 0, 1], [0, 0, 1, 1, 1]]
    assert classification.score(outputs, 200, seed=1).metrics[Metric.ACCURACY].value == 1


def test_each_label_is_told_from_its_own_threshold_on() -> None:
    probabilities = np.array([[0.2, 0.2], [0.4, 0.4], [0.8, 0.8]])
    truth = np.array([[False, False], [True, False], [True, True]])
    outputs = LabelOutputs(
        names=("a", "b"),
        truth=truth,
        logits=logits_of(probabilities).astype(np.float32),
        baselines={},
        thresholds=np.array([0.3, 0.6]),
    )
    assert np.array_equal(outputs.answers[0], truth)
    beside = replace(
        outputs,
        baselines={Baseline.TFIDF: probabilities},
        baseline_thresholds={Baseline.TFIDF: np.array([0.3, 0.6])},
    )
    assert np.array_equal(beside.answers[1], truth)
    assert multilabel.score(outputs, 200, seed=1).metrics[Metric.EXACT_MATCH].value == 1
