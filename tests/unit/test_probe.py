"""A head on frozen features: it learns what stands in them, and nothing where nothing does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from finetune_api.tasks import TASKS, Baseline, Task
from finetune_trainer.evaluation.probe import (
    CLASSES,
    LABELS,
    NUMBERS,
    ProbeForm,
    fit_probe,
    load_probe,
    save_probe,
)

ROWS = 600
CHANCE = np.random.default_rng(4)
FEATURES = CHANCE.normal(size=(ROWS, 8)).astype(np.float32)
FORMS: dict[str, tuple[ProbeForm, int, Any]] = {
    "classes": (CLASSES, 3, FEATURES[:, :3].argmax(axis=1)),
    "labels": (LABELS, 4, (FEATURES[:, :4] > 0).astype(np.int64)),
    "numbers": (NUMBERS, 1, 5000 + 40 * FEATURES[:, 0].astype(np.float64)),
}
SOLVED = {"classes": 0.9, "labels": 0.9, "numbers": 5.0}
GUESSED = {"classes": (0.25, 0.42), "labels": (0.4, 0.6), "numbers": (35.0, 45.0)}


@pytest.mark.parametrize("kind", list(FORMS))
def test_what_the_features_say_is_learned_and_tells_of_rows_that_nobody_saw(kind: str) -> None:
    form, outputs, targets = FORMS[kind]
    fitted = fit_probe(form, FEATURES[:400], targets[:400], range(400), outputs, seed=1)
    found = form.figure(targets[400:], form.tell(fitted.baseline.outputs(FEATURES[400:])))
    assert (found < SOLVED[kind]) if form.lower_is_better else (found > SOLVED[kind])
    assert fitted.cross_validated == pytest.approx(found, rel=0.2, abs=1.0)


@pytest.mark.parametrize("kind", list(FORMS))
def test_of_targets_that_were_shuffled_it_knows_no_more_than_chance(kind: str) -> None:
    form, outputs, targets = FORMS[kind]
    shuffled = CHANCE.permutation(targets)
    fitted = fit_probe(form, FEATURES[:400], shuffled[:400], range(400), outputs, seed=1)
    found = form.figure(shuffled[400:], form.tell(fitted.baseline.outputs(FEATURES[400:])))
    low, high = GUESSED[kind]
    assert fitted.cross_validated is not None
    assert low < found < high
    assert low < fitted.cross_validated < high


def blas_threads() -> set[int]:
    return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


def test_it_is_fitted_on_one_core_and_others_compute_on_theirs_again() -> None:
    seen: list[set[int]] = []

    def figure(labels: Any, told: Any) -> float:
        seen.append(blas_threads())
        return CLASSES.figure(labels, told)

    form, (_, outputs, targets) = dataclasses.replace(CLASSES, figure=figure), FORMS["classes"]
    with threadpool_limits(limits=2, user_api="blas"):
        fit_probe(form, FEATURES, targets, range(ROWS), outputs, seed=1)
        assert blas_threads() == {2}
    assert {1} in seen
    assert all(threads == {1} for threads in seen)


def test_rows_of_one_group_stay_in_one_fold() -> None:
    # Each row stands there four times: who learned one of them knows the others by heart.
    rows, labels = np.tile(CHANCE.normal(size=(50, 60)), (4, 1)), np.tile(np.arange(50) % 2, 4)
    features = rows.astype(np.float32)
    apart = fit_probe(CLASSES, features, labels, list(range(50)) * 4, 2, seed=1)
    mixed = fit_probe(CLASSES, features, labels, range(200), 2, seed=1)
    assert apart.cross_validated is not None
    assert mixed.cross_validated is not None
    assert apart.cross_validated < 0.75
    assert mixed.cross_validated > 0.95


@pytest.mark.parametrize("kind", list(FORMS))
def test_kept_on_disk_it_says_the_same(kind: str, tmp_path: Path) -> None:
    form, outputs, targets = FORMS[kind]
    probe = fit_probe(form, FEATURES, targets, range(ROWS), outputs, seed=1).baseline
    save_probe(probe, tmp_path)
    np.testing.assert_array_equal(load_probe(tmp_path).outputs(FEATURES), probe.outputs(FEATURES))


def test_a_class_that_no_drawn_row_has_is_never_told() -> None:
    labels = np.where(FORMS["classes"][2] == 1, 0, FORMS["classes"][2])
    for known in (labels, np.full(ROWS, 2)):
        probe = fit_probe(CLASSES, FEATURES, known, range(ROWS), 3, seed=1).baseline
        told = CLASSES.tell(probe.outputs(FEATURES))
        assert (told[:, 1] == 0).all()
        np.testing.assert_allclose(told.sum(axis=1), 1)


@pytest.mark.parametrize("task", list(Task))
def test_a_head_on_the_frozen_model_is_never_the_baseline_to_beat(task: Task) -> None:
    facts = TASKS[task]
    assert facts.conventional in facts.baselines
    assert facts.conventional is not Baseline.PROBE
