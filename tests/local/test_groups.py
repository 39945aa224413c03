"""Groups and swapped terms from the manifest to the verdict: on whom a trained model fails."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_from_disk
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from finetune_api.evaluationreport import EvaluationReport
from finetune_api.run import LAYOUT
from harness.evaluation import MAX_LENGTH, STEP, Job, a_prepared_job, a_trained_model, recompute
from harness.tinymodel import BAD, GOOD, sentences

Evaluated = tuple[Job, EvaluationReport, list[dict[str, Any]]]
GATE = [
    {"name": "fair", "metric": "accuracy", "group": "style", "maxShortfall": 0.05},
    {
        "name": "fair-by-origin",
        "metric": "accuracy",
        "group": "origin",
        "maxShortfall": 0.5,
        "insufficient": "pass",
    },
    {"name": "deaf-to-nouns", "metric": "flipRate", "swap": "nouns", "max": 0.2},
    {"name": "deaf", "metric": "flipExcess", "max": 0.2, "insufficient": "pass"},
]
SWAPS = {
    "swaps": [
        {"name": "nouns", "pairs": [["city", "family"]]},
        {"name": "praise", "pairs": list(zip(GOOD, BAD, strict=True))},
        {"name": "unseen", "pairs": [["he", "she"]]},
    ],
    "neutral": [["film", "story"]],
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Evaluated:
    """Every third sentence is irony, and says the opposite half of the time; few have an origin."""
    chance = random.Random(5)
    rows: list[tuple[str, ...]] = [("id", "text", "label", "style", "origin")]
    for index, (text, label) in enumerate(sentences(700)):
        ironic = index % 3 == 0
        turned = {"positive": "negative", "negative": "positive"}[label]
        said = turned if ironic and chance.random() < 0.5 else label
        origin = chance.choice(("north", "south", "", "", "", "", "", ""))
        rows.append((f"r{index}", text, said, "irony" if ironic else "plain", origin))
    folder = tmp_path_factory.mktemp("groups") / "job"
    split, asked = {"test": 40}, {"groups": ("style", "origin")}
    job = a_prepared_job(folder, tiny_model, rows, asked, split=split)
    job.save_checkpoint(a_trained_model(job, tiny_model))
    report = job.evaluate(job.run({"gate": GATE, "counterfactuals": SWAPS}))
    kept = pq.read_table(job.workspace.path(LAYOUT.predictions)).to_pylist()
    return job, report, kept


def test_every_rows_groups_are_kept_beside_its_prediction(
    evaluated: Evaluated,
) -> None:
    _, report, kept = evaluated
    assert [one.column for one in report.groups] == ["style", "origin"]
    for column in report.groups:
        names = [row[f"groups.{column.column}"] for row in kept]
        assert {group.group: group.rows for group in column.groups} == {
            name: names.count(name) for name in set(names)
        }
    assert {group.group for group in report.groups[1].groups} == {"(missing)", "north", "south"}


def test_only_test_rows_keep_their_groups(
    evaluated: Evaluated,
) -> None:
    job, _, _ = evaluated
    for role in ("train", "select"):
        rows = load_from_disk(str(job.workspace.path(LAYOUT.prepared) / role))
        assert "groups" not in rows.column_names


def test_figures_of_groups_follow_from_the_kept_predictions(evaluated: Evaluated) -> None:
    job, _, _ = evaluated
    compared = recompute(job.workspace.path(LAYOUT.output))
    assert {"style irony None", "style plain ('accuracy', None)"} <= compared
    assert {"style irony ('falsePositiveRate', 'positive')"} <= compared
    assert {"swaps.neutral_flipRate", "swaps.praise_excess", "swaps.nouns_change"} <= compared


def test_the_group_on_which_it_fails_is_found_and_fails_the_gate(
    evaluated: Evaluated,
) -> None:
    job, report, _ = evaluated
    irony, plain = (group.contrasts[0] for group in report.groups[0].groups)
    assert irony.found
    assert irony.difference.value < 0 < plain.difference.value
    assert not any(one.found for group in report.groups[1].groups for one in group.contrasts)
    fair, by_origin, *_ = report.gate
    assert (fair.passed, fair.group) == (False, "irony")
    assert fair.measured == pytest.approx(-irony.difference.value)
    assert by_origin.passed
    assert not job.workspace.path(LAYOUT.output_model).exists()


def test_a_term_that_decides_is_found_beside_neutral_ones(evaluated: Evaluated) -> None:
    _, report, kept = evaluated
    found = report.counterfactuals
    assert found is not None
    nouns, praise, unseen = found.swaps
    assert praise.found
    assert praise.flip_rate is not None
    assert praise.flip_rate.value > 0.5
    assert praise.excess is not None
    assert found.neutral.flip_rate is not None
    assert praise.excess.value == pytest.approx(
        praise.flip_rate.value - found.neutral.flip_rate.value
    )
    assert not nouns.found
    assert nouns.rows == sum({"city", "family"} & set(row["text"].split()) != set() for row in kept)
    assert (unseen.rows, unseen.flip_rate, unseen.insufficient) == (0, None, True)
    *_, deaf_to_nouns, deaf = report.gate
    assert deaf_to_nouns.passed
    assert (deaf.passed, deaf.swap, deaf.insufficient) == (False, "praise", True)


def test_a_twins_answer_is_that_to_its_text(evaluated: Evaluated) -> None:
    """Asked of the checkpoint anew, in a plain loop."""
    job, _, kept = evaluated
    folder = job.workspace.path(LAYOUT.checkpoint(1, STEP))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.train(mode=False)
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "model")
    partner = {"city": "family", "family": "city"}
    held = [row for row in kept if row["swaps.nouns_predicted"] is not None]
    for row in held[:10]:
        twin = " ".join(partner.get(word, word) for word in row["text"].split())
        assert twin != row["text"]
        asked = tokenizer(twin, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            told = model(**asked).logits[0].softmax(dim=-1).tolist()
        assert row["swaps.nouns_probabilities"] == pytest.approx(told, abs=1e-5)


def test_with_a_test_set_of_its_own_only_that_needs_the_column(
    tmp_path: Path, tiny_model: Path
) -> None:
    made = [(f"r{i}", text, label) for i, (text, label) in enumerate(sentences(160))]
    own = ["id,text,label,style"]
    own += [
        f"t{i},{text},{label},{style}"
        for (i, text, label), style in zip(made[100:], "ab" * 30, strict=True)
    ]
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "test.csv").write_text("\n".join(own))
    rows = [("id", "text", "label"), *made[:100]]
    asked = {"groups": ("style",)}
    job = a_prepared_job(tmp_path / "job", tiny_model, rows, asked, test="test.csv")
    test = load_from_disk(str(job.workspace.path(LAYOUT.test)))
    assert sorted(set(map(tuple, test["groups"]))) == [("a",), ("b",)]
