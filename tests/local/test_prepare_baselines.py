"""Conventional baselines: learned within train, kept without pickle, the same when read again."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from finetune_api.datareport import BaselineFit
from finetune_api.tasks import TASKS, Metric, Task
from finetune_trainer.data.rows import CleanRow
from finetune_trainer.evaluation import tfidf
from finetune_trainer.evaluation.baselines import (
    Baseline,
    Majority,
    TfidfLogistic,
    fit_baselines,
    load_baselines,
    save_baselines,
)
from finetune_trainer.evaluation.class_evidence import ClassEvidence
from finetune_trainer.evaluation.label_baselines import load_label_baselines
from finetune_trainer.evaluation.label_evidence import LabelEvidence
from finetune_trainer.evaluation.number_baselines import load_number_baselines
from finetune_trainer.evaluation.number_evidence import NumberEvidence
from finetune_trainer.evaluation.search import Fitted
from finetune_trainer.evaluation.tag_evidence import TagEvidence
from finetune_trainer.tasks.form import Evidence

SEED = 3
Fits = tuple[Fitted[Majority], Fitted[TfidfLogistic]]


@pytest.fixture(scope="module")
def rows(sentences_csv: Path) -> tuple[list[str], list[int]]:
    with sentences_csv.open(encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    return [row["text"] for row in read], [int(row["label"] == "positive") for row in read]


@pytest.fixture(scope="module")
def fitted(rows: tuple[list[str], list[int]]) -> Fits:
    texts, labels = rows
    return fit_baselines(texts[:300], labels[:300], range(300), SEED)


def accuracy(baseline: Baseline, texts: list[str], labels: list[int]) -> float:
    return float((baseline.predict_proba(texts).argmax(axis=1) == np.asarray(labels)).mean())


def test_words_beat_the_majority_on_rows_that_nobody_saw(
    fitted: Fits, rows: tuple[list[str], list[int]]
) -> None:
    texts, labels = rows
    majority, tfidf = (one.baseline for one in fitted)
    assert (majority.name, tfidf.name) == ("majority", "tfidf")
    assert accuracy(tfidf, texts[300:], labels[300:]) > 0.85
    assert accuracy(majority, texts[300:], labels[300:]) < 0.6


def test_cross_validation_tells_about_what_unseen_rows_do(
    fitted: Fits, rows: tuple[list[str], list[int]]
) -> None:
    texts, labels = rows
    told = fitted[1].cross_validated
    assert told is not None
    assert abs(told - accuracy(fitted[1].baseline, texts[300:], labels[300:])) < 0.1


def test_what_is_read_again_says_the_same_and_nothing_is_pickled(
    fitted: Fits, rows: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    texts = [*rows[0], "", "words that nobody knows", "漢字"]
    save_baselines([one.baseline for one in fitted], tmp_path)
    loaded = load_baselines(tmp_path)
    assert [one.name for one in loaded] == ["majority", "tfidf"]
    told = [one.baseline.predict_proba(texts) for one in fitted]
    for again, expected in zip(loaded, told, strict=True):
        probabilities = again.predict_proba(texts)
        np.testing.assert_array_equal(probabilities, expected)
        assert probabilities.shape == (len(texts), 2)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)
        assert again.predict_proba([]).shape == (0, 2)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_the_same_rows_and_seed_give_the_same_baselines(
    fitted: Fits, rows: tuple[list[str], list[int]]
) -> None:
    texts, labels = rows
    again = fit_baselines(texts[:300], labels[:300], range(300), SEED)
    assert [one.settings for one in again] == [one.settings for one in fitted]
    np.testing.assert_array_equal(
        again[1].baseline.predict_proba(texts), fitted[1].baseline.predict_proba(texts)
    )


def test_copies_of_a_row_in_one_group_teach_cross_validation_nothing() -> None:
    # Labels are noise, so only copies that stand on both sides of a fold could be known.
    chance = np.random.default_rng(0)
    words = [f"w{number}" for number in range(60)]
    texts = [" ".join(chance.choice(words, 6)) for _ in range(120)]
    labels = chance.integers(0, 2, size=120).tolist()
    grouped = fit_baselines(texts * 4, labels * 4, list(range(120)) * 4, SEED)
    ungrouped = fit_baselines(texts * 4, labels * 4, range(480), SEED)
    told, leaked = (one[1].cross_validated for one in (grouped, ungrouped))
    assert told is not None
    assert leaked is not None
    assert leaked > 0.95
    assert told < 0.7


def test_too_few_units_for_folds_leave_the_accuracy_unsaid() -> None:
    fitted = fit_baselines(["good", "good too", "bad"], [1, 1, 0], ["g", "g", "h"], SEED)
    assert fitted[1].cross_validated is None
    assert fitted[1].baseline.predict_proba(["good"]).argmax() == 1


@pytest.mark.parametrize("rows", [40, 2], ids=["with folds", "without folds"])
def test_texts_without_a_word_are_told_by_their_characters_or_are_alike(
    rows: int, tmp_path: Path
) -> None:
    texts = [("😀😀" if row % 2 else "☹") + "!" * (row // 2) for row in range(rows)]
    labels = [row % 2 for row in range(rows)]
    majority, fitted = fit_baselines(texts, labels, range(rows), SEED)
    save_baselines([majority.baseline, fitted.baseline], tmp_path)
    _, again = load_baselines(tmp_path)
    told = again.predict_proba(texts)
    assert np.array_equal(told, fitted.baseline.predict_proba(texts))
    if rows == 2:
        assert told == pytest.approx(0.5)
    else:
        assert (told.argmax(axis=1) == labels).all()


def test_a_class_that_the_drawn_rows_lack_keeps_its_column(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tfidf, "FIT_ROWS", 40)
    texts = [f"good {number}" for number in range(100)] + [f"bad {number}" for number in range(100)]
    labels = [0] * 100 + [2] * 100
    fitted = fit_baselines([*texts, "rare"], [*labels, 1], range(201), SEED)
    assert fitted[1].settings["rows"] == "40"
    save_baselines([one.baseline for one in fitted], tmp_path)
    for one in load_baselines(tmp_path):
        assert one.predict_proba(["good 1", "rare"]).shape == (2, 3)


def clean_rows(
    rows: tuple[list[str], list[int]], target: Callable[[str, int], Any], groups: int = 0
) -> list[CleanRow[Any, Any]]:
    texts, labels = rows
    return [
        CleanRow(
            id=str(place),
            input=text,
            target=target(text, label),
            classes=(),
            group=str(place % groups) if groups else None,
            key=text.encode(),
        )
        for place, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


def fit_on(
    evidence: Evidence, rows: list[CleanRow[Any, Any]], classes: tuple[str, ...], folder: Path
) -> BaselineFit:
    """The baseline to beat, with its figures on the last hundred rows."""
    found = evidence.fit_baselines(
        rows[:-100], rows[-100:], classes, seed=SEED, resamples=200, folder=folder
    )
    return found.fits[-1]


def test_every_figure_of_a_classifier_is_known_of_its_baselines_on_the_select_rows(
    rows: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    names = ("bad", "good")
    fit = fit_on(ClassEvidence(), clean_rows(rows, lambda _, label: names[label]), names, tmp_path)
    assert set(fit.metrics) == set(TASKS[Task.TEXT_CLASSIFICATION].metrics)
    texts, truth = rows[0][-100:], rows[1][-100:]
    told = load_baselines(tmp_path)[-1].predict_proba(texts)
    predicted = told.argmax(axis=1)
    expected = {
        Metric.ACCURACY: accuracy_score(truth, predicted),
        Metric.MACRO_F1: f1_score(truth, predicted, average="macro"),
        Metric.LOSS: log_loss(truth, told),
    }
    assert {one: fit.metrics[one].value for one in expected} == pytest.approx(expected)
    assert fit.select == fit.metrics[Metric.ACCURACY].value
    low, high = fit.metrics[Metric.ACCURACY].low, fit.metrics[Metric.ACCURACY].high
    assert low is not None
    assert high is not None
    assert low < fit.select < high


def test_rows_of_few_groups_give_baselines_no_interval(
    rows: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    names = ("bad", "good")
    grouped = clean_rows(rows, lambda _, label: names[label], groups=9)
    fit = fit_on(ClassEvidence(), grouped, names, tmp_path)
    assert (fit.metrics[Metric.ACCURACY].low, fit.metrics[Metric.ACCURACY].high) == (None, None)


def test_so_are_those_of_labels_numbers_and_tags(
    rows: tuple[list[str], list[int]], tmp_path: Path
) -> None:
    def labels(text: str, label: int) -> frozenset[str]:
        return frozenset({"good"} if label else ()) | ({"long"} if len(text) > 60 else set())

    of_labels = clean_rows(rows, labels)
    fit = fit_on(LabelEvidence(), of_labels, ("good", "long"), tmp_path / "labels")
    assert set(fit.metrics) == set(TASKS[Task.MULTI_LABEL_CLASSIFICATION].metrics)
    told = load_label_baselines(tmp_path / "labels")[-1].predict_proba(rows[0][-100:])
    truth = np.asarray(
        [[one in row.target for one in ("good", "long")] for row in of_labels[-100:]]
    )
    assert fit.select == pytest.approx(f1_score(truth, told >= 0.5, average="micro"))

    numbers = clean_rows(rows, lambda text, label: float(label) + len(text) / 100)
    fit = fit_on(NumberEvidence(), numbers, (), tmp_path / "numbers")
    assert set(fit.metrics) == set(TASKS[Task.TEXT_REGRESSION].metrics)
    values = load_number_baselines(tmp_path / "numbers")[-1].predict(rows[0][-100:])
    gaps = values - np.asarray([row.target for row in numbers[-100:]])
    assert fit.metrics[Metric.MAE].value == pytest.approx(np.abs(gaps).mean())

    tagged = [
        replace(row, input=words, target=tuple("X" if len(word) > 4 else "O" for word in words))
        for row in numbers
        if (words := tuple(row.input.split()))
    ]
    fit = fit_on(TagEvidence(), tagged, ("O", "X"), tmp_path / "tags")
    # Taggers that are baselines give no probabilities.
    assert set(fit.metrics) == set(TASKS[Task.TOKEN_CLASSIFICATION].metrics) - {Metric.LOSS}
