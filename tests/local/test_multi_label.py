"""Multi-label classification from rows to a model in a plain pipeline."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import load_from_disk
from transformers import AutoConfig, pipeline

from finetune_api.run import LAYOUT
from finetune_api.tasks import Task
from finetune_trainer.evaluation.label_baselines import load_label_baselines
from finetune_trainer.evaluation.multilabel import sigmoid
from finetune_trainer.evaluation.probe import load_probe
from finetune_trainer.evaluation.probing import frozen_features
from finetune_trainer.evaluation.thresholds import f1, threshold
from finetune_trainer.models.heads import MULTI_LABEL
from finetune_trainer.models.load import load_model
from finetune_trainer.tasks.registry import FORMS
from harness.evaluation import recompute
from harness.tasks import Done, through_all_steps, write_rows

TRAINING = {
    "epochs": None,
    "max_steps": 80,
    "global_batch_size": 32,
    "micro_batch_size": 32,
    "accumulation_steps": 1,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 80,
}
GATE = [
    {"name": "right-enough", "metric": "microF1", "min": 0.6, "bound": "Lower"},
    {"name": "better-than-guessing", "metric": "errorReduction", "min": 0.1,
     "against": "majority"},
]  # fmt: skip
SWAPS = {"swaps": [{"name": "about", "pairs": [["actor", "war"]]}], "neutral": [["film", "story"]]}
WORDS = {"acting": "actor", "music": "music", "war": "war"}
NEUTRAL = "the a this film story scene plot camera ending director family city".split()


def labeled(rows: int) -> list[tuple[str, str, str]]:
    """Distinct sentences; each label goes with a word of its own, and some rows have none."""
    chance = random.Random(6)
    made: dict[str, str] = {}
    while len(made) < rows:
        labels = [label for label in WORDS if chance.random() < 0.4]
        words = [WORDS[label] for label in labels] + chance.choices(NEUTRAL, k=chance.randint(4, 8))
        chance.shuffle(words)
        made.setdefault(" ".join(words), "|".join(labels))
    return [(f"m{number}", text, labels) for number, (text, labels) in enumerate(made.items())]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Done:
    folder = tmp_path_factory.mktemp("multi-label")
    write_rows(folder, ("id", "text", "label"), labeled(300))
    return through_all_steps(
        folder,
        tiny_model,
        Task.MULTI_LABEL_CLASSIFICATION,
        training=TRAINING,
        evaluation={"gate": GATE, "threshold": "tune", "counterfactuals": SWAPS},
        columns={"id": "id"},
        split={"strategy": "stratified", "select": 20},
    )


def test_the_model_learns_all_labels_and_passes_its_gate(done: Done) -> None:
    assert [result.passed for result in done.report.gate] == [True, True], done.report.gate
    assert done.report.labels == tuple(sorted(WORDS))
    assert {scores.label for scores in done.report.per_class} == set(WORDS)
    assert done.report.confusion_matrix == ()


def test_a_rows_labels_are_kept_whole_and_none_is_a_target_too(done: Done) -> None:
    given = {key: set(labels.split("|")) - {""} for key, _, labels in labeled(300)}
    assert done.prepared.data.kept_rows == 300
    for row in done.predictions:
        assert set(row["labels"]) == given[row["row_id"]]
    assert any(not row["labels"] for row in done.predictions)
    train = load_from_disk(str(done.workspace.path(LAYOUT.prepared / "train")))
    for key, flags in zip(train["row_id"], train["label"], strict=True):
        told = {name for name, flag in zip(done.report.labels, flags, strict=True) if flag}
        assert told == given[key]


def test_figures_follow_from_the_kept_predictions(done: Done) -> None:
    compared = recompute(done.workspace.path(LAYOUT.output))
    assert {"microF1", "macroF1", "loss", "majority_errorReduction"} <= compared
    assert {"swaps.about_flipRate", "swaps.about_change"} <= compared
    assert "probe_microF1" in compared
    assert [one.name for one in done.report.baselines] == ["majority", "tfidf", "probe"]
    names = done.report.labels
    thresholds = [done.report.thresholds[name] for name in names]
    for row in done.predictions:
        told = zip(names, row["probabilities"], thresholds, strict=True)
        assert set(row["predicted"]) == {name for name, p, least in told if p >= least}


def test_the_baselines_thresholds_are_tuned_by_the_same_rule_on_the_same_rows(done: Done) -> None:
    names, baselines = done.report.labels, done.report.baselines
    tuned = done.report.baseline_thresholds
    sources = {key: text for key, text, _ in labeled(300)}
    select = load_from_disk(str(done.workspace.path(LAYOUT.prepared / "select")))
    truth = np.asarray(select["label"], dtype=np.bool_)
    texts = [sources[key] for key in select["row_id"]]
    shares, tfidf = load_label_baselines(done.workspace.path(LAYOUT.baselines))
    probe = load_probe(done.workspace.path(LAYOUT.baselines))
    base = done.workspace.root.parent / "claims" / "models" / "tiny-bert"
    loaded = load_model(base, "base", MULTI_LABEL, names, dropout=None, seed=1)
    collation = FORMS[Task.MULTI_LABEL_CLASSIFICATION].batches(loaded.processor, "base")
    untuned = sigmoid(frozen_features(loaded.model, select, collation, probe.outputs))
    own = (shares.predict_proba(texts), tfidf.predict_proba(texts), untuned)
    for report, said in zip(baselines, own, strict=True):
        cuts = tuned[report.name]
        assert cuts == pytest.approx(
            {
                name: threshold("tune", said[:, place], truth[:, place], f1)
                for place, name in enumerate(names)
            }
        )
        for row in done.predictions:
            pairs = zip(names, row[f"{report.name}_probabilities"], strict=True)
            told = {name for name, p in pairs if p >= cuts[name]}
            assert set(row[f"{report.name}_predicted"]) == told


def test_the_exported_model_gives_each_labels_probability_in_a_plain_pipeline(done: Done) -> None:
    rows = done.predictions[:8]
    answer = pipeline("text-classification", model=str(done.model), top_k=None)
    # For several classes each the answer is a list, which the published type leaves out.
    answers: Any = answer([row["text"] for row in rows], truncation=True)
    for row, said in zip(rows, answers, strict=True):
        scores = {one["label"]: one["score"] for one in said}
        told = [scores[name] for name in done.report.labels]
        assert told == pytest.approx(row["probabilities"], abs=1e-5)
    assert "### By label" in (done.model / "README.md").read_text()


def test_the_thresholds_of_the_figures_leave_with_the_model(done: Done) -> None:
    thresholds = done.report.thresholds
    assert set(thresholds) == set(done.report.labels)
    assert any(value != 0.5 for value in thresholds.values())
    assert AutoConfig.from_pretrained(done.model).thresholds == pytest.approx(thresholds)
    card = (done.model / "README.md").read_text()
    assert "### Thresholds" in card
    assert f"{thresholds['war']:.6f}" in card
