"""An adapter that was trained, evaluated: merged into its base model, or as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from finetune_api.evaluationreport import EvaluationReport
from finetune_api.lora import Lora
from finetune_api.run import LAYOUT
from finetune_trainer.errors import TrainerError
from finetune_trainer.models.heads import SINGLE_LABEL
from finetune_trainer.models.load import load_model
from finetune_trainer.models.lora import adapt, save_adapter
from harness.evaluation import Job, a_prepared_job

URI = "model"


@dataclass(frozen=True)
class Evaluated:
    job: Job
    report: EvaluationReport
    probabilities: np.ndarray[Any, np.dtype[np.float64]]

    @property
    def export(self) -> Path:
        return self.job.workspace.path(LAYOUT.output_model)


def an_evaluated_job(folder: Path, tiny_model: Path, rows: Path, output: str) -> Evaluated:
    job = a_prepared_job(folder, tiny_model, rows)
    loaded = load_model(tiny_model, URI, SINGLE_LABEL, job.prepared.labels, dropout=None, seed=42)
    adapted = adapt(loaded.model, URI, Lora(rank=4), loaded.new_weights, seed=42)
    torch.manual_seed(2)
    for weight in adapted.parameters():
        if weight.requires_grad:
            # Large, so that every row is told from the others.
            torch.nn.init.normal_(weight, std=0.5)
    job.write_checkpoint(lambda path: save_adapter(adapted, path))
    model = {"uri": URI, "method": "lora", "lora": {"rank": 4, "output": output}}
    run = job.run()
    run = run.model_copy(update={"model": type(run.model).model_validate(model)})
    report = job.evaluate(run)
    rows_kept = pq.read_table(job.workspace.path(LAYOUT.predictions)).to_pylist()
    return Evaluated(job, report, np.array([row["probabilities"] for row in rows_kept]))


@pytest.fixture(scope="module")
def merged(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, sentences_csv: Path
) -> Evaluated:
    return an_evaluated_job(tmp_path_factory.mktemp("merged"), tiny_model, sentences_csv, "merged")


@pytest.fixture(scope="module")
def adapter(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, sentences_csv: Path
) -> Evaluated:
    folder = tmp_path_factory.mktemp("adapter")
    return an_evaluated_job(folder, tiny_model, sentences_csv, "adapter")


def test_merged_or_not_it_scores_the_same(merged: Evaluated, adapter: Evaluated) -> None:
    assert merged.probabilities[:, 0].std() > 0.01
    np.testing.assert_allclose(merged.probabilities, adapter.probabilities, atol=1e-4)
    assert merged.report.baselines == adapter.report.baselines
    assert [one.name for one in merged.report.baselines] == ["majority", "tfidf", "probe"]


def test_a_merged_export_is_a_whole_model_and_nothing_else(
    merged: Evaluated, tiny_model: Path
) -> None:
    names = {path.name for path in merged.export.iterdir()}
    assert "model.safetensors" in names
    assert not [name for name in names if "adapter" in name]
    loaded = AutoModelForSequenceClassification.from_pretrained(merged.export)
    assert loaded.config.id2label == {0: "negative", 1: "positive"}
    card = (merged.export / "README.md").read_text()
    assert "with LoRA (rank 4) from" in card
    assert "| lora.rank | 4 |" in card
    assert "| health.windowSteps | 100 |" in card
    assert (merged.export / "model.safetensors").stat().st_size > (
        tiny_model / "model.safetensors"
    ).stat().st_size


def test_an_exported_adapter_goes_onto_the_base_model_as_its_card_says(
    adapter: Evaluated, tiny_model: Path
) -> None:
    folder = adapter.export
    assert "model.safetensors" not in {path.name for path in folder.iterdir()}
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    code = code.replace("PATH/TO/THIS/FOLDER", str(folder))
    code = code.replace("PATH/TO/THE/BASE/MODEL", str(tiny_model))
    code = code.replace("\nmodel([", "\nanswer = model([")
    said: dict[str, Any] = {}
    exec(code, said)  # noqa: S102  # what the card tells its reader to run
    assert {one["label"] for one in said["answer"][0]} == {"negative", "positive"}
    assert PeftModel.__name__ in code


def test_an_adapter_of_another_base_model_is_refused(
    adapter: Evaluated, tmp_path: Path, tiny_model: Path, sentences_csv: Path
) -> None:
    job = a_prepared_job(tmp_path / "job", tiny_model, sentences_csv)
    job.write_checkpoint(lambda path: (path / "adapter_config.json").write_text("{}"))
    model = {"uri": URI, "method": "lora", "lora": {"rank": 4}}
    run = job.run()
    run = run.model_copy(update={"model": type(run.model).model_validate(model)})
    with pytest.raises(TrainerError, match="its adapter can't be put onto"):
        job.evaluate(run)
