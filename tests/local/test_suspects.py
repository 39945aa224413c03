"""Suspect rows: planted wrong targets are found, and a clean set has hardly any."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finetune_trainer.evaluation.baselines import fit_baselines
from finetune_trainer.evaluation.image_baselines import fit_image_baselines
from finetune_trainer.evaluation.label_baselines import fit_label_baselines
from finetune_trainer.evaluation.number_baselines import fit_number_baselines
from finetune_trainer.evaluation.suspects import (
    Doubt,
    Doubts,
    class_doubts,
    doubts,
    label_doubts,
    number_doubts,
)
from harness.digits import digits
from harness.tinymodel import GOOD, sentences

SEED = 3
ROWS = 400


def shares(found: Doubts | None, planted: Sequence[int]) -> tuple[float, float]:
    """Precision and recall of the rows found; each row is called by its number."""
    assert found is not None
    rows = {int(found.ids[one.place]) for one in found.found}
    right = len(rows & set(planted))
    return right / len(rows), right / len(planted)


def test_a_row_is_suspect_if_another_class_reaches_its_threshold_and_its_own_does_not() -> None:
    # Thresholds: of a the mean of 0.9, 0.8 and 0.1, of b that of 0.7, 0.9 and 0.5.
    sure = np.asarray([0.9, 0.8, 0.1, 0.3, 0.1, 0.5])
    labels = np.asarray([0, 0, 0, 1, 1, 1])
    found = list(class_doubts(("a", "b"), labels, np.stack([sure, 1 - sure], axis=1)))
    # The last one's own class is not sure enough (0.5 < 0.7), but nor is the other (0.5 < 0.6).
    (one,) = found
    assert (one.place, one.has, one.likely) == (2, "a", "b")
    assert one.doubt == pytest.approx(0.8)


def test_a_row_that_reaches_its_own_threshold_is_not_suspect_though_another_is_likelier() -> None:
    # The mean is 0.35 for a and 0.5 for b.
    sure = np.asarray([0.45, 0.3, 0.3, 0.5, 0.5, 0.5])
    labels = np.asarray([0, 0, 0, 1, 1, 1])
    found = class_doubts(("a", "b"), labels, np.stack([sure, 1 - sure], axis=1))
    assert [one.place for one in found] == [1, 2]


def test_a_class_that_no_row_has_is_likely_of_none() -> None:
    told = np.asarray([[0.1, 0.2, 0.7], [0.3, 0.1, 0.6]])
    assert not list(class_doubts(("a", "b", "c"), np.asarray([0, 1]), told))


def test_a_label_is_suspect_where_it_stands_and_where_it_lacks() -> None:
    truth = np.asarray([[True], [True], [True], [False], [False], [False]])
    having = np.asarray([[0.9], [0.9], [0.1], [0.1], [0.1], [0.95]])
    found = list(label_doubts(("long",), truth, having))
    assert [(one.place, one.has, one.likely) for one in found] == [
        (2, "long", None),
        (5, None, "long"),
    ]


def test_numbers_are_held_against_what_their_residuals_deviate_by() -> None:
    told = np.zeros(9)
    truth = np.asarray([-2.0, -1.0, -1.0, 0.0, 0.0, 1.0, 1.0, 2.0, 5.2])
    # The median deviation is 1: 0.6745 · 5.2 is just beyond 3.5, and 5.1 within.
    assert [(one.place, one.has) for one in number_doubts(truth, told)] == [(8, "5.2")]
    truth[8] = 5.1
    assert not list(number_doubts(truth, told))
    # Without a deviation there is no measure of what is far.
    assert not list(number_doubts(np.asarray([0.0, 0.0, 0.0, 9.0]), np.zeros(4)))


def text_doubts(labels: Sequence[int], texts: Sequence[str]) -> Doubts | None:
    tfidf = fit_baselines(texts, labels, range(len(texts)), SEED)[1]
    ids = [str(row) for row in range(len(texts))]
    truth = np.asarray(labels)
    return doubts(tfidf, ids, lambda rows, told: class_doubts(("bad", "good"), truth[rows], told))


def test_flipped_labels_of_texts_are_found() -> None:
    made = sentences(ROWS)
    texts = [text for text, _ in made]
    truth = [int(any(word in GOOD for word in text.split())) for text in texts]
    labels = [int(label == "positive") for _, label in made]
    planted = [row for row in range(ROWS) if truth[row] != labels[row]]
    found = text_doubts(labels, texts)
    # Seen: 21 of 25, and nothing else.
    assert len(planted) > 10
    precision, recall = shares(found, planted)
    assert precision > 0.9
    assert recall > 0.75
    clean = text_doubts(truth, texts)
    assert clean is not None
    assert len(clean.ids) == ROWS
    assert len(clean.found) <= ROWS * 0.01


def test_flipped_labels_of_digits_are_found() -> None:
    images = [np.repeat(np.asarray(image)[None], 3, axis=0) for image, _ in digits()[:ROWS]]
    truth = np.asarray([int(label) for _, label in digits()[:ROWS]])
    names, ids = [str(one) for one in range(10)], [str(row) for row in range(ROWS)]

    def found(labels: np.ndarray) -> Doubts | None:
        pixels = fit_image_baselines(images, labels, range(ROWS), SEED)[1]
        return doubts(pixels, ids, lambda rows, told: class_doubts(names, labels[rows], told))

    chance = np.random.default_rng(SEED)
    planted = chance.choice(ROWS, 20, replace=False)
    labels = truth.copy()
    labels[planted] = (labels[planted] + chance.integers(1, 10, 20)) % 10
    precision, recall = shares(found(labels), planted.tolist())
    # Seen: 12 of 20, and nothing else; what was learned from as many wrong rows is less sure.
    assert precision > 0.9
    assert recall > 0.5
    clean = found(truth)
    assert clean is not None
    assert len(clean.found) <= ROWS * 0.02


def test_wrong_labels_of_several_and_wrong_numbers_are_found() -> None:
    texts = [text for text, _ in sentences(ROWS)]
    good = np.asarray([any(word in GOOD for word in text.split()) for text in texts])
    ids = [str(row) for row in range(ROWS)]
    planted = np.random.default_rng(SEED).choice(ROWS, 16, replace=False)

    truth = np.stack([good, np.asarray(["war" in text.split() for text in texts])], axis=1)
    truth[planted, 0] ^= True
    tfidf = fit_label_baselines(texts, truth, range(ROWS), SEED)[1]
    found = doubts(tfidf, ids, lambda rows, told: label_doubts(("good", "war"), truth[rows], told))
    assert found is not None
    named = tuple(one for one in found.found if "good" in {one.has, one.likely})
    precision, recall = shares(replace(found, found=named), planted.tolist())
    # Seen: 11 of 16 labels and 16 of 16 numbers, and nothing else.
    assert precision > 0.9
    assert recall > 0.6

    chance = np.random.default_rng(SEED)
    numbers = good * 2.0 + chance.normal(0, 0.2, ROWS)
    numbers[planted] += 5.0
    ridge = fit_number_baselines(texts, numbers.tolist(), range(ROWS), SEED)[1]
    far = doubts(ridge, ids, lambda rows, told: number_doubts(numbers[rows], told))
    precision, recall = shares(far, planted.tolist())
    assert precision > 0.9
    assert recall > 0.9


def test_the_report_counts_rows_and_pairs_and_the_file_has_every_row(tmp_path: Path) -> None:
    found = Doubts(
        baseline=fit_baselines(["a", "b"], [0, 1], range(2), SEED)[1].baseline.name,
        ids=[f"r{row}" for row in range(30)],
        found=(
            *(Doubt(row, "a", "b" if row % 3 else "c", 1 - row / 100) for row in range(12)),
            Doubt(0, None, "d", 0.01),
        ),
    )
    report = found.report(named=True)
    assert (report.looked_at, report.rows) == (30, 12)
    assert [(one.has, one.likely, one.rows) for one in report.pairs] == [
        ("a", "b", 8),
        ("a", "c", 4),
        (None, "d", 1),
    ]
    assert report.examples == tuple(f"r{row}" for row in range(10))
    assert found.report(named=False).pairs == ()
    found.write(tmp_path / "suspects.csv")
    with (tmp_path / "suspects.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["row_id"] for line in lines] == [*(f"r{row}" for row in range(12)), "r0"]
    assert lines[-1] == {"row_id": "r0", "has": "", "likely": "d", "doubt": "0.0100"}


def test_rows_that_are_too_few_for_folds_are_not_looked_at() -> None:
    assert text_doubts([1, 0], ["good", "bad"]) is None
