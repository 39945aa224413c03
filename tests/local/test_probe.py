"""A head on the frozen model, as a baseline: its figures are those of the untuned model's features.

The backbones are planted: one sees which words are praise and which are not, the other sees none.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, load_from_disk
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from finetune_api.datareport import BaselineFit, PrepareReport
from finetune_api.run import LAYOUT
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.data.pixels import PixelForm
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import UsageError
from finetune_trainer.evaluation import probing
from finetune_trainer.evaluation.probing import frozen_features
from finetune_trainer.training.image_batches import ImageBatches
from harness.evaluation import MAX_LENGTH, OUT_OF_REACH, Job, a_prepared_job, recompute
from harness.tinymodel import BAD, GOOD
from harness.trainer import a_run, an_environment

GATE = {
    "gate": [
        *OUT_OF_REACH["gate"],
        {"name": "more-than-a-head", "metric": "errorReduction", "min": 0, "against": "probe"},
    ]
}


def a_backbone(folder: Path, tiny_model: Path, strength: float) -> Path:
    """Write the tiny model anew: its words are told apart by whether they praise, if at all."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = BertModel.from_pretrained(tiny_model)
    with torch.no_grad():
        words = model.embeddings.word_embeddings.weight
        words.zero_()
        for sign, group in ((1, GOOD), (-1, BAD)):
            words[tokenizer.convert_tokens_to_ids(list(group)), 0] = sign * strength
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    return a_backbone(tmp_path_factory.mktemp("seeing"), tiny_model, 1.0)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, seeing: Path, sentences_csv: Path) -> Job:
    """A job whose checkpoint has nothing left of the planted model: its weights are all noise."""
    made = a_prepared_job(tmp_path_factory.mktemp("job"), seeing, sentences_csv)
    torch.manual_seed(1)
    names = made.prepared.labels
    model = AutoModelForSequenceClassification.from_pretrained(
        seeing, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    made.save_checkpoint(model)
    return made


def fit_of(report: PrepareReport) -> BaselineFit:
    assert report.baselines_left_out == {}
    return next(one for one in report.baselines if one.name is Baseline.PROBE)


def test_it_is_a_plain_regression_on_the_mean_of_the_untuned_models_last_states(
    job: Job, seeing: Path
) -> None:
    report = job.evaluate(job.run(GATE))
    compared = recompute(job.workspace.path(LAYOUT.output))
    assert {"probe_accuracy", "probe_macroF1", "probe_errorReduction"} <= compared
    (probe,) = (one for one in report.baselines if one.name is Baseline.PROBE)
    assert probe.metrics[Metric.ACCURACY].value > 0.85
    assert report.metrics[Metric.ACCURACY].value < 0.7, "the tuned model knows nothing"
    assert not report.gate[1].passed
    tokenizer = AutoTokenizer.from_pretrained(seeing)
    model = BertModel.from_pretrained(seeing, dtype=torch.float32)
    assert not model.training

    def features(ids: list[int]) -> np.ndarray:
        # Row by row: without padding there is nothing to mask.
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state
        return np.asarray(states[0].mean(dim=0))

    train = load_from_disk(str(job.workspace.path(LAYOUT.prepared / "train")))
    strength = float(fit_of(job.prepared).settings["C"])
    plain = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    plain.fit([features(ids) for ids in train["input_ids"]], train["label"])
    kept = pq.read_table(job.workspace.path(LAYOUT.predictions)).to_pylist()
    ids = [
        tokenizer(row["text"], truncation=True, max_length=MAX_LENGTH)["input_ids"] for row in kept
    ]
    expected = plain.predict_proba([features(one) for one in ids])
    told = [row["probe_probabilities"] for row in kept]
    np.testing.assert_allclose(told, expected, atol=0.01)


def test_a_backbone_that_tells_no_words_apart_brings_chance(
    tmp_path: Path, tiny_model: Path, sentences_csv: Path, job: Job
) -> None:
    blind = a_backbone(tmp_path / "blind", tiny_model, 0.0)
    fit = fit_of(a_prepared_job(tmp_path / "job", blind, sentences_csv).prepared)
    seen = fit_of(job.prepared)
    assert fit.cross_validated is not None
    assert seen.cross_validated is not None
    assert fit.cross_validated < 0.65
    assert seen.cross_validated > 0.85


def test_shuffled_labels_bring_chance(tmp_path: Path, seeing: Path, sentences_csv: Path) -> None:
    rows = list(csv.reader(sentences_csv.read_text().splitlines()))
    labels = [row[2] for row in rows[1:]]
    random.Random(3).shuffle(labels)
    shuffled = [(*row[:2], label) for row, label in zip(rows[1:], labels, strict=True)]
    made = a_prepared_job(tmp_path, seeing, [("id", "text", "label"), *shuffled])
    assert fit_of(made.prepared).cross_validated == pytest.approx(0.5, abs=0.1)


def test_what_costs_too_much_takes_fewer_rows_or_is_left_out_and_said_so(
    tmp_path: Path,
    seeing: Path,
    sentences_csv: Path,
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = int(fit_of(job.prepared).settings["rows"])
    assert rows == job.prepared.data.train_rows
    # At twelve tokens at most, two layers of 32 do some 0.4 million operations a row.
    monkeypatch.setattr(probing, "MOST_FLOPS", 110 * 10**6)
    fewer = a_prepared_job(tmp_path / "fewer", seeing, sentences_csv)
    assert probing.FEWEST_ROWS <= int(fit_of(fewer.prepared).settings["rows"]) < rows
    monkeypatch.setattr(probing, "MOST_FLOPS", 10**6)
    without = a_prepared_job(tmp_path / "without", seeing, sentences_csv)
    assert [one.name for one in without.prepared.baselines] == ["majority", "tfidf"]
    reason = without.prepared.baselines_left_out[Baseline.PROBE]
    assert "operations a row" in reason
    without.save_checkpoint(AutoModelForSequenceClassification.from_pretrained(
        job.workspace.path(LAYOUT.checkpoint(1, 60))
    ))  # fmt: skip
    report = without.evaluate(without.run(OUT_OF_REACH))
    assert [one.name for one in report.baselines] == ["majority", "tfidf"]
    assert report.baselines_left_out == {Baseline.PROBE: reason}
    # Served from what was made, and asked for what there is not.
    run = a_run(
        dataset=without.dataset,
        model="model",
        training={"max_length": MAX_LENGTH},
        evaluation=GATE,
    )
    environment = an_environment(without.folder, run, BASE=str(without.folder))
    with pytest.raises(UsageError, match=r"more-than-a-head is against probe.*operations a row"):
        prepare(RankEnvironment.from_env(environment), run)


def test_a_large_model_is_not_even_loaded(
    tmp_path: Path, seeing: Path, sentences_csv: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "MOST_PARAMETERS", 1000)
    monkeypatch.setattr(probing, "load_model", lambda *_, **__: pytest.fail("it was loaded"))
    made = a_prepared_job(tmp_path, seeing, sentences_csv)
    assert "billion weights" in made.prepared.baselines_left_out[Baseline.PROBE]


def test_an_images_features_are_what_the_backbone_pools_whatever_is_beside_it() -> None:
    torch.manual_seed(2)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model = ResNetForImageClassification(config)
    # As it would be right after training, when a batch's own statistics normalize it.
    model.train()
    images = np.random.default_rng(3).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    rows = Dataset.from_dict({"pixels": [one.tobytes() for one in images], "label": [0, 1] * 3})
    whole = PixelForm(16, 16, np.full(3, 1 / 255, np.float32), np.zeros(3, np.float32))
    found = frozen_features(model, rows, ImageBatches(whole))
    assert found.shape == (6, 16)
    assert found.std(axis=0).max() > 0.05
    with torch.no_grad():
        for image, features in zip(images, found, strict=True):
            alone = model.resnet(pixel_values=torch.tensor(image[None] / 255, dtype=torch.float32))
            np.testing.assert_allclose(
                features, alone.last_hidden_state[0].mean(dim=(1, 2)), atol=1e-5
            )
