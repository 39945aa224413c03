"""The evaluate step: figures that follow from the rows alone, and a verdict that holds."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_from_disk
from scipy.stats import norm, t
from transformers import PreTrainedModel

from finetune_api.evaluationreport import EvaluationReport
from finetune_api.output import Output
from finetune_api.report import ExitCode, Termination
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.errors import DataError, StorageError, TrainerError, UsageError
from finetune_trainer.evaluation.classification import RowOutputs, score
from finetune_trainer.objectstore import open_s3
from harness.evaluation import (
    OUT_OF_REACH,
    STEP,
    Job,
    a_prepared_job,
    a_trained_model,
    recompute,
)
from harness.objectstore import ObjectStore

REQUIRED = {
    "gate": [
        {"name": "right-enough", "metric": "accuracy", "min": 0.7, "bound": "Lower"},
        {"name": "better-than-guessing", "metric": "errorReduction", "min": 0.3,
         "against": "majority", "bound": "Lower"},
    ]
}  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    job: Job
    model: PreTrainedModel
    report: EvaluationReport

    @property
    def predictions(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = pq.read_table(
            self.job.workspace.path(LAYOUT.predictions)
        ).to_pylist()
        return rows


@pytest.fixture(scope="module")
def passed(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, sentences_csv: Path
) -> Evaluated:
    """A job whose model passed its gate, and was exported."""
    job = a_prepared_job(tmp_path_factory.mktemp("passed"), tiny_model, sentences_csv)
    model = a_trained_model(job, tiny_model)
    job.save_checkpoint(model)
    return Evaluated(job, model, job.evaluate(job.run(REQUIRED)))


@pytest.fixture
def ready(passed: Evaluated, tmp_path: Path, tiny_model: Path, sentences_csv: Path) -> Job:
    """The same job before its evaluation, for a test that spoils something."""
    job = a_prepared_job(tmp_path / "job", tiny_model, sentences_csv)
    job.save_checkpoint(passed.model)
    return job


def test_every_figure_follows_from_the_kept_predictions(passed: Evaluated) -> None:
    compared = recompute(passed.job.workspace.path(LAYOUT.output))
    report = passed.report
    assert report.test_rows == len(passed.predictions) == passed.job.prepared.data.test_rows
    assert {metric.value for metric in report.metrics} <= compared
    assert {"majority_macroF1", "tfidf_errorReduction", "negative recall"} <= compared
    assert report.calibration is not None
    assert ("calibrated loss" in compared) == (report.calibration.after is not None)
    pairs = [(row["label"], row["predicted"]) for row in passed.predictions]
    assert [list(line) for line in report.confusion_matrix] == [
        [pairs.count((true, told)) for told in report.labels] for true in report.labels
    ]


def test_intervals_agree_with_a_plain_bootstrap_of_the_kept_predictions(passed: Evaluated) -> None:
    rows, chance, n = passed.predictions, random.Random(5), len(passed.predictions)
    left_out = round(4000 * norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)))
    by_label = {label: [row for row in rows if row["label"] == label] for label in ("negative",)}
    by_label["positive"] = [row for row in rows if row not in by_label["negative"]]
    rarest = min(by_label, key=lambda label: len(by_label[label]))
    columns = ("predicted", "majority_predicted")
    # Low ends count one error more: of a row that most are right about, in the rarest class.
    one_more = max(by_label[rarest], key=lambda row: sum(row[c] == rarest for c in columns))
    worse = [
        {**row, **dict.fromkeys(columns, "no class")} if row is one_more else row for row in rows
    ]

    def wrong(some: list[dict[str, Any]], column: str) -> int:
        return sum(row["label"] != row[column] for row in some)

    def drawn(some: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
        draws = [chance.choices(some, k=n) for _ in range(4000)]
        accuracy = sorted(1 - wrong(one, "predicted") / n for one in draws)
        reduction = sorted(
            1 - wrong(one, "predicted") / wrong(one, "majority_predicted") for one in draws
        )
        return accuracy, reduction

    majority = passed.report.baselines[0].error_reduction
    assert majority is not None
    stated = (passed.report.metrics[Metric.ACCURACY], majority)
    for one, low, high in zip(stated, drawn(worse), drawn(rows), strict=True):
        assert one.low == pytest.approx(low[left_out], abs=0.03)
        assert one.high == pytest.approx(high[3999 - left_out], abs=0.03)


def test_predictions_name_each_test_row_once_with_all_that_was_said_of_it(
    passed: Evaluated,
) -> None:
    test = load_from_disk(str(passed.job.workspace.path(LAYOUT.test)))
    table = pq.read_table(passed.job.workspace.path(LAYOUT.predictions))
    names = json.loads(table.schema.metadata[b"labels"])
    assert tuple(names) == passed.report.labels
    assert table["row_id"].to_pylist() == list(test["row_id"])
    assert table["text"].to_pylist() == list(test["text"])
    assert [names.index(label) for label in table["label"].to_pylist()] == list(test["label"])
    assert "group" not in table.column_names
    for prefix in ("", "majority_", "tfidf_"):
        for row in table.to_pylist():
            said = row[f"{prefix}probabilities"]
            assert sum(said) == pytest.approx(1)
            assert row[f"{prefix}predicted"] == names[said.index(max(said))]


def test_the_rows_probabilities_are_those_of_the_checkpoint(passed: Evaluated) -> None:
    test = load_from_disk(str(passed.job.workspace.path(LAYOUT.test)))
    passed.model.train(mode=False)
    with torch.inference_mode():
        for row, said in zip(test, passed.predictions, strict=True):
            logits = passed.model(input_ids=torch.tensor([row["input_ids"]])).logits
            expected = logits.double().softmax(dim=1)[0].tolist()
            assert said["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_the_export_gives_the_same_answers_in_a_plain_pipeline(passed: Evaluated) -> None:
    script = (
        "import json, sys; from transformers import pipeline;"
        "classify = pipeline('text-classification', model=sys.argv[1], top_k=None);"
        "print(json.dumps(classify(json.loads(sys.stdin.read()), truncation=True)))"
    )
    rows = passed.predictions
    assert any(len(row["text"].split()) > 12 for row in rows), "some are cut"
    answers = subprocess.run(
        [sys.executable, "-I", "-c", script, str(passed.job.workspace.path(LAYOUT.output_model))],
        input=json.dumps([row["text"] for row in rows]),
        capture_output=True,
        text=True,
        check=True,
    )
    for row, answer in zip(rows, json.loads(answers.stdout), strict=True):
        assert answer[0]["label"] == row["predicted"]
        scores = {one["label"]: one["score"] for one in answer}
        expected = dict(zip(passed.report.labels, row["probabilities"], strict=True))
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_passed_gate_leaves_a_report_that_names_what_it_judged(passed: Evaluated) -> None:
    report = passed.report
    assert report.passed
    assert [(one.name, one.passed) for one in report.gate] == [
        ("right-enough", True),
        ("better-than-guessing", True),
    ]
    assert report.gate[0].measured == report.metrics[Metric.ACCURACY].low
    assert report.checkpoint_step == STEP
    assert report.split_digest == passed.job.prepared.data.split_digest
    assert report.interval_unit == "row"
    assert report.model is not None
    assert report.generalization is not None
    card = (passed.job.workspace.path(report.model.path) / "README.md").read_text()
    for fact in (
        f"{report.metrics[Metric.ACCURACY].value:.4f}",
        f"{report.metrics[Metric.ACCURACY].low:.4f} to {report.metrics[Metric.ACCURACY].high:.4f}",
        report.split_digest,
        "license: unknown",
        f"| test | {report.test_rows} |",
        "| tfidf |",
        f"| the gap | {report.generalization.gap.value:.4f} |",
        "| seed | 42 |",
    ):
        assert fact in card


def files_of(job: Job) -> dict[str, tuple[int, int]]:
    """Every file of the output, with its identity and the moment of its last change."""
    output = job.workspace.path(LAYOUT.output)
    return {
        str(path.relative_to(output)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(output.rglob("*"))
    }


def test_the_same_inputs_are_evaluated_once(passed: Evaluated) -> None:
    before = files_of(passed.job)
    assert passed.job.evaluate(passed.job.run(REQUIRED)) == passed.report
    assert files_of(passed.job) == before


def test_what_was_lost_is_made_again_and_the_same(ready: Job, passed: Evaluated) -> None:
    first = ready.evaluate(ready.run(OUT_OF_REACH))
    assert first.predictions == passed.report.predictions, "another workspace, the same digest"
    assert first.metrics == passed.report.metrics
    predictions = ready.workspace.path(LAYOUT.predictions)
    predictions.write_bytes(predictions.read_bytes()[:-1])
    assert ready.evaluate(ready.run(OUT_OF_REACH)) == first
    report = ready.workspace.path(LAYOUT.evaluation_report)
    report.write_bytes(report.read_bytes()[:100])
    assert ready.evaluate(ready.run(OUT_OF_REACH)) == first


def test_a_failed_gate_exports_nothing_and_takes_an_earlier_export_away(ready: Job) -> None:
    export = ready.workspace.path(LAYOUT.output_model)
    export.mkdir(parents=True)
    (export / "model.safetensors").write_bytes(b"of an evaluation that passed")
    report = ready.evaluate(ready.run(OUT_OF_REACH))
    assert not report.passed
    assert [one.passed for one in report.gate] == [False]
    assert report.model is None
    assert {path.name for path in export.parent.iterdir()} == {
        "evaluation.json",
        "losses.parquet",
        "predictions.parquet",
        "suspects.csv",
    }


def test_what_is_exported_is_published_and_what_fails_its_gate_is_not(
    ready: Job, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    output = Output(uri=f"s3://{object_store.new_bucket()}/reviews")
    assert output.uri is not None
    assert not ready.evaluate(ready.run(OUT_OF_REACH, output=output)).passed
    assert open_s3().find(output.uri) == []
    run = ready.run(output=output)
    assert ready.evaluate(run).passed
    model = ready.workspace.path(LAYOUT.output_model)
    files = [path for path in model.rglob("*") if path.is_file()]
    exported = {str(path.relative_to(model)): path.read_bytes() for path in files}
    assert "serving/kserve.yaml" in exported
    store, root = open_s3(), output.uri.removeprefix("s3://")
    lying = {path.removeprefix(f"{root}/"): store.cat_file(path) for path in store.find(output.uri)}
    assert lying == exported
    # An attempt that dies between its report and the copy: the next one serves and publishes.
    store.rm(output.uri, recursive=True)
    ready.evaluate(run)
    assert len(store.find(output.uri)) == len(exported)


def test_another_gate_is_another_evaluation(ready: Job) -> None:
    first = ready.evaluate(ready.run(OUT_OF_REACH))
    higher = {"gate": [{"name": "higher", "metric": "mcc", "min": 1, "bound": "Lower"}]}
    second = ready.evaluate(ready.run(higher))
    assert second.inputs_digest != first.inputs_digest
    assert [one.name for one in second.gate] == ["higher"]


def test_a_new_checkpoint_is_another_evaluation(ready: Job, passed: Evaluated) -> None:
    first = ready.evaluate(ready.run(OUT_OF_REACH))
    weight = passed.model.get_parameter("classifier.weight")
    weight.data.neg_()
    try:
        ready.save_checkpoint(passed.model)
    finally:
        weight.data.neg_()
    second = ready.evaluate(ready.run(OUT_OF_REACH))
    assert second.metrics[Metric.ACCURACY].value < 0.5 < first.metrics[Metric.ACCURACY].value


def test_a_model_of_permuted_labels_fails_a_gate_on_its_gain(ready: Job, tiny_model: Path) -> None:
    def permuted(labels: list[int]) -> list[int]:
        return random.Random(3).sample(labels, len(labels))

    ready.save_checkpoint(a_trained_model(ready, tiny_model, permuted))
    gain = {"name": "gain", "metric": "errorReduction", "min": 0, "bound": "Lower"}
    report = ready.evaluate(ready.run({"gate": [gain]}))
    assert not report.passed
    assert report.gate[0].against == "tfidf"
    accuracy = report.metrics[Metric.ACCURACY]
    assert accuracy.low is not None
    assert accuracy.low < 0.5, "no better than chance; the few words of the rows may make it worse"
    assert report.model is None
    assert not ready.workspace.path(LAYOUT.output_model).exists()


def test_texts_are_left_out_where_they_may_not_be_kept(ready: Job) -> None:
    ready.evaluate(ready.run({**OUT_OF_REACH, "keep_predictions": False}))
    predictions = pq.read_table(ready.workspace.path(LAYOUT.predictions))
    assert "text" not in predictions.column_names
    test = load_from_disk(str(ready.workspace.path(LAYOUT.test)))
    held = {value for column in predictions.to_pydict().values() for value in map(str, column)}
    assert not held & set(test["text"])


def test_no_result_of_a_row_outlives_the_figures_where_it_may_not(ready: Job) -> None:
    kept = ready.evaluate(ready.run(OUT_OF_REACH))
    report = ready.evaluate(ready.run({**OUT_OF_REACH, "row_results": "Discard"}))
    assert report.predictions is report.losses is None
    assert report.metrics == kept.metrics
    left = {path.name for path in ready.workspace.path(LAYOUT.predictions).parent.iterdir()}
    assert not left & {LAYOUT.predictions.name, LAYOUT.losses.name}
    report_file = ready.workspace.path(LAYOUT.evaluation_report)
    made_at = report_file.stat().st_mtime_ns
    assert ready.evaluate(ready.run({**OUT_OF_REACH, "row_results": "Discard"})) == report
    assert report_file.stat().st_mtime_ns == made_at, "served, though no rows are there to look at"


def test_the_order_of_the_labels_changes_no_figure(
    passed: Evaluated, tmp_path: Path, tiny_model: Path, sentences_csv: Path
) -> None:
    names = passed.report.labels
    job = a_prepared_job(tmp_path, tiny_model, sentences_csv, labels=list(names[::-1]))
    model = passed.model
    head = [model.get_parameter("classifier.weight"), model.get_parameter("classifier.bias")]
    stated = model.config.id2label
    try:
        for parameter in head:
            parameter.data = parameter.data.flip(0)
        model.config.id2label = dict(enumerate(names[::-1]))
        job.save_checkpoint(model)
    finally:
        for parameter in head:
            parameter.data = parameter.data.flip(0)
        model.config.id2label = stated
    report = job.evaluate(job.run(OUT_OF_REACH))
    assert report.labels == names[::-1]
    assert report.metrics[Metric.ACCURACY].value == passed.report.metrics[Metric.ACCURACY].value
    assert report.metrics[Metric.MACRO_F1].value == pytest.approx(
        passed.report.metrics[Metric.MACRO_F1].value
    )
    assert report.metrics[Metric.LOSS].value == pytest.approx(
        passed.report.metrics[Metric.LOSS].value, abs=1e-6
    )
    assert report.per_class == passed.report.per_class[::-1]
    flipped = np.array(passed.report.confusion_matrix)[::-1, ::-1]
    assert np.array_equal(np.array(report.confusion_matrix), flipped)


def test_with_a_group_column_intervals_are_resampled_by_group(
    passed: Evaluated, tmp_path: Path, tiny_model: Path, sentences_csv: Path
) -> None:
    lines = [line.split(",") for line in sentences_csv.read_text().splitlines()]
    rows = [("id", "text", "label", "author")]
    rows += [(one[0], one[1], one[2], f"author {n // 5}") for n, one in enumerate(lines[1:])]
    job = a_prepared_job(tmp_path, tiny_model, rows, columns={"id": "id", "group": "author"})
    job.save_checkpoint(passed.model)
    report = job.evaluate(job.run(OUT_OF_REACH))
    assert report.interval_unit == "author"
    kept = pq.read_table(job.workspace.path(LAYOUT.predictions)).to_pylist()
    authors = {row[0]: row[3] for row in rows}
    assert all(row["group"] == authors[row["row_id"]] for row in kept)
    assert 10 <= len({row["group"] for row in kept}) <= len(kept) / 3
    by_group, by_row = (
        score(outputs_of(kept, report.labels, grouped=grouped), 400, seed=42).metrics[Metric.MCC]
        for grouped in (True, False)
    )
    assert report.metrics[Metric.MCC] == by_group
    assert report.metrics[Metric.MCC] != by_row


def outputs_of(kept: list[dict[str, Any]], names: tuple[str, ...], *, grouped: bool) -> RowOutputs:
    groups = np.unique([row["group"] for row in kept], return_inverse=True)[1]
    return RowOutputs(
        names=names,
        labels=np.array([names.index(row["label"]) for row in kept]),
        logits=np.log([row["probabilities"] for row in kept]).astype(np.float32),
        baselines={
            name: np.array([row[f"{name}_probabilities"] for row in kept])
            for name in (Baseline.MAJORITY, Baseline.TFIDF)
        },
        groups=groups if grouped else None,
    )


def cut_a_bit(job: Job) -> None:
    weights = job.workspace.path(LAYOUT.checkpoint(1, STEP)) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def drop_a_test_row(job: Job) -> None:
    folder = job.workspace.path(LAYOUT.test)
    test = load_from_disk(str(folder))
    test.select(range(len(test) - 1)).save_to_disk(str(folder.with_name("shorter")))
    shutil.rmtree(folder)
    folder.with_name("shorter").rename(folder)


ANOTHER = "sha256:" + "f" * 64
SPOILED: dict[str, Callable[[Job, PreTrainedModel], object]] = {
    "split": lambda job, model: job.save_checkpoint(model, split_digest=ANOTHER),
    "spec": lambda job, model: job.save_checkpoint(model, spec_digest=ANOTHER),
    "manifest": lambda job, _: (
        job.workspace.path(LAYOUT.checkpoint(1, STEP)) / CHECKPOINT_MANIFEST
    ).unlink(),
    "weights": lambda job, _: cut_a_bit(job),
    "labels": lambda job, model: _with_config(job, model, id2label={0: "no", 1: "yes"}),
    "layers": lambda job, model: _with_config(job, model, num_hidden_layers=3),
    "row count": lambda job, _: drop_a_test_row(job),
    "test rows": lambda job, _: shutil.rmtree(job.workspace.path(LAYOUT.test)),
    "report": lambda job, _: job.workspace.path(LAYOUT.prepare_report).unlink(),
    "baseline": lambda job, _: (job.workspace.path(LAYOUT.baselines) / "tfidf.json").unlink(),
}


@pytest.mark.parametrize(
    ("spoiled", "error", "message"),
    [
        ("split", DataError, "trained on another split of the rows"),
        ("spec", UsageError, "written for another spec"),
        ("manifest", StorageError, "no complete checkpoint"),
        ("weights", StorageError, r"damaged: model\.safetensors"),
        ("labels", UsageError, "the model's classes are"),
        ("layers", UsageError, "weights are missing"),
        ("row count", DataError, "test rows"),
        ("test rows", DataError, "there are no test rows"),
        ("report", DataError, "run the prepare step first"),
        ("baseline", DataError, "a baseline is missing"),
    ],
)
def test_what_can_not_be_evaluated_is_refused_and_leaves_nothing(
    ready: Job, passed: Evaluated, spoiled: str, error: type[TrainerError], message: str
) -> None:
    SPOILED[spoiled](ready, passed.model)
    with pytest.raises(error, match=message):
        ready.evaluate(ready.run(OUT_OF_REACH))
    left = {path.name for path in ready.workspace.path(LAYOUT.output).iterdir()}
    assert left == {"suspects.csv"}, "what the prepare step left"


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (None, "nothing to evaluate before training"),
        ("../elsewhere", "leads out of the workspace"),
    ],
)
def test_a_run_that_names_no_checkpoint_of_the_job_is_refused(
    ready: Job, checkpoint: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ready.evaluate(ready.run(OUT_OF_REACH, best_checkpoint=checkpoint))


def _with_config(job: Job, model: PreTrainedModel, **changes: object) -> None:
    """Save a checkpoint whose configuration says something else than its weights."""
    kept = {name: getattr(model.config, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(model.config, name, value)
        job.save_checkpoint(model)
    finally:
        for name, value in kept.items():
            setattr(model.config, name, value)


def test_the_command_leaves_the_reports_place_and_digest_as_its_last_word(ready: Job) -> None:
    run = ready.run(OUT_OF_REACH)
    environment = ready.environment(run)
    finished = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "evaluate"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == ExitCode.DONE, finished.stderr
    word = Termination.model_validate_json(
        Path(environment["FINETUNE_TERMINATION_LOG"]).read_bytes()
    )
    assert word.exit_code == 0
    assert word.report is not None
    assert word.report.path == str(LAYOUT.evaluation_report)
    assert not ready.evaluate(run).passed, "served from what the process left"


def test_a_threshold_of_two_classes_is_tuned_and_leaves_with_the_model(
    passed: Evaluated, tmp_path: Path, tiny_model: Path, sentences_csv: Path
) -> None:
    asked = {"threshold": "tune"}
    job = a_prepared_job(tmp_path / "job", tiny_model, sentences_csv, asked)
    job.save_checkpoint(passed.model)
    report = job.evaluate(job.run())
    (threshold,) = report.thresholds.values()
    assert set(report.thresholds) == {"positive"}
    rows = pq.read_table(job.workspace.path(LAYOUT.predictions)).to_pylist()
    for row in rows:
        likely = row["probabilities"][1] >= threshold
        assert row["predicted"] == ("positive" if likely else "negative")
    config = json.loads((job.workspace.path(LAYOUT.output_model) / "config.json").read_text())
    assert config["thresholds"] == report.thresholds


def test_of_more_than_two_classes_a_threshold_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    texts = [f"the {one} film {two}" for one in "abcdefgh" for two in "ijklmnop"]
    rows = [(f"r{i}", text, "abc"[i % 3]) for i, text in enumerate(texts)]
    with pytest.raises(UsageError, match="the data have 3 classes"):
        a_prepared_job(
            tmp_path / "job",
            tiny_model,
            [("id", "text", "label"), *rows],
            {"threshold": "0.3"},
            split={"strategy": "stratified"},
        )
