"""Text regression from rows to a model in a plain pipeline: numbers in the data's own unit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import pipeline

from finetune_api.run import LAYOUT
from finetune_api.tasks import Metric, Task
from finetune_trainer.errors import DataError, UsageError
from harness.evaluation import recompute
from harness.tasks import Done, prepared, through_all_steps, write_rows

TRAINING = {
    "epochs": None,
    "max_steps": 60,
    "global_batch_size": 32,
    "micro_batch_size": 32,
    "accumulation_steps": 1,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 60,
}
GATE = [
    {"name": "close", "metric": "rmse", "max": 60, "bound": "Upper"},
    {"name": "better-than-the-mean", "metric": "errorReduction", "min": 0.3, "against": "mean",
     "bound": "Lower"},
]  # fmt: skip
NEUTRAL = "the a this film story actor scene plot camera music ending director".split()


SWAPS = {
    "swaps": [{"name": "praise", "pairs": [["brilliant", "boring"]]}],
    "neutral": [["film", "story"]],
}


def numbered(rows: int) -> list[tuple[str, str, float]]:
    """Distinct sentences, each with a number around 5000 that its good and bad words decide."""
    chance = random.Random(5)
    made: dict[str, float] = {}
    while len(made) < rows:
        good = chance.randint(0, 4)
        words = ["brilliant"] * good + ["boring"] * (4 - good)
        words += chance.choices(NEUTRAL, k=chance.randint(4, 8))
        chance.shuffle(words)
        made.setdefault(" ".join(words), 5000 + 50.0 * good + chance.gauss(0, 5))
    return [(f"n{number}", text, value) for number, (text, value) in enumerate(made.items())]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Done:
    folder = tmp_path_factory.mktemp("regression")
    write_rows(folder, ("id", "text", "label"), numbered(300))
    return through_all_steps(
        folder,
        tiny_model,
        Task.TEXT_REGRESSION,
        training=TRAINING,
        evaluation={"gate": GATE, "counterfactuals": SWAPS},
        columns={"id": "id"},
    )


def test_the_model_learns_numbers_far_from_zero_and_passes_its_gate(done: Done) -> None:
    assert [result.passed for result in done.report.gate] == [True, True], done.report.gate
    target = done.prepared.data.target
    assert target is not None
    assert 4900 < target.min < target.mean < target.max < 5300
    assert done.report.metrics[Metric.R_SQUARED].value > 0.5


def test_every_figure_follows_from_the_kept_predictions(done: Done) -> None:
    compared = recompute(done.workspace.path(LAYOUT.output))
    assert {metric.value for metric in done.report.metrics} <= compared
    assert [one.name for one in done.report.baselines] == ["mean", "tfidf", "probe"]
    assert {"mean_errorReduction", "tfidf_errorReduction", "probe_errorReduction"} <= compared
    assert {"swaps.praise_change", "swaps.neutral_change"} <= compared


def test_swapping_what_decides_moves_the_number_more_than_neutral_words(done: Done) -> None:
    found = done.report.counterfactuals
    assert found is not None
    (praise,) = found.swaps
    assert (praise.flip_rate, praise.found) == (None, True)
    assert praise.change is not None
    assert praise.change.value > 20


def test_the_exported_model_gives_the_scored_numbers_in_a_plain_pipeline(done: Done) -> None:
    rows = done.predictions[:8]
    answer = pipeline("text-classification", model=str(done.model))
    scores = [one["score"] for one in answer([row["text"] for row in rows], truncation=True)]
    assert scores == pytest.approx([row["predicted"] for row in rows], rel=1e-5)
    card = (done.model / "README.md").read_text()
    assert "A text regressor" in card
    assert "root mean squared error" in card
    assert "confusion" not in card.lower()
    assert done.report.counterfactuals is not None
    (praise,) = done.report.counterfactuals.swaps
    assert praise.change is not None
    assert f"| praise | {praise.rows} | {praise.change.value:.4f} |" in card
    assert "answers that change" not in card, "a number has no flips"


def test_rows_without_a_number_are_dropped_and_counted(tmp_path: Path, tiny_model: Path) -> None:
    write_rows(
        tmp_path, ("text", "label"), [*((t, n) for _, t, n in numbered(60)), ("the plot", "")]
    )
    report = prepared(tmp_path, tiny_model, Task.TEXT_REGRESSION, TRAINING)
    assert (report.data.read_rows, report.data.kept_rows) == (61, 60)
    assert report.labels == ("value",)
    assert report.data.classes == ()


def test_numbers_that_are_all_the_same_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    write_rows(tmp_path, ("text", "label"), [(text, 3) for _, text, _ in numbered(60)])
    with pytest.raises(DataError, match="every training row has the number 3"):
        prepared(tmp_path, tiny_model, Task.TEXT_REGRESSION, TRAINING)


def test_a_model_that_has_a_head_already_is_refused(done: Done, tmp_path: Path) -> None:
    write_rows(tmp_path, ("text", "label"), [(text, n) for _, text, n in numbered(60)])
    with pytest.raises(UsageError, match="starts from a model without head"):
        prepared(tmp_path, done.model, Task.TEXT_REGRESSION, TRAINING)
