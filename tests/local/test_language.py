"""A language model from manifest to verdict, by `finetune run`: real training on two ranks, packed.

The run is made once and asked many questions.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.phases import ConditionType, Phase
from finetune_api.report import ExitCode
from finetune_api.run import LAYOUT
from finetune_api.status import JobStatus
from finetune_api.tasks import Baseline, Metric
from finetune_operator.local.workspace import Workspace
from harness.evaluation import recompute
from harness.language import a_llama, chat_tokenizer, chats, saved
from harness.processes import PATIENCE_SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="local runs need Linux")

ROWS = {row["id"]: row["messages"] for row in chats(400)}
ORIGIN = {
    name: None if place % 20 == 0 else ("north", "south")[place % 2]
    for place, name in enumerate(ROWS)
}
SPEC: dict[str, Any] = {
    "task": "causal-lm",
    "model": {"uri": "model"},
    "dataset": {"train": "rows.jsonl", "columns": {"id": "id", "messages": "messages"}},
    "training": {
        "maxSteps": 120,
        "globalBatchSize": 32,
        "maxMicroBatchSize": 16,
        "learningRate": 4.0e-3,
        "maxLength": 128,
        "evalsPerEpoch": 1,
        "seed": 5,
    },
    "compute": {"workers": 2, "gpusPerWorker": 1},
    "evaluation": {
        "resamples": 200,
        "gate": [
            {"name": "learned", "metric": "errorReduction", "min": 0.5, "bound": "Lower"},
            {"name": "sure", "metric": "perplexity", "max": 1.5, "bound": "Upper"},
            {"name": "fair", "metric": "loss", "group": "origin", "maxShortfall": 0.1,
             "bound": "Upper", "insufficient": "pass"},
        ],
        "groups": ["origin"],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A job that came to its end."""

    code: int
    said: str
    workspace: Workspace

    @property
    def status(self) -> JobStatus:
        state = self.workspace.read_state()
        assert state is not None
        assert state.job.status is not None
        return state.job.status

    @property
    def folder(self) -> Path:
        state = self.workspace.read_state()
        assert state is not None
        return self.workspace.job_folder(state.job.metadata.uid)

    @property
    def report(self) -> EvaluationReport:
        return EvaluationReport.model_validate_json(
            (self.folder / LAYOUT.evaluation_report).read_bytes()
        )

    @property
    def model(self) -> Path:
        return self.folder / LAYOUT.output_model


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("chat")
    tokenizer = chat_tokenizer()
    saved(a_llama(tokenizer), tokenizer, root / "model")
    lines = [
        json.dumps({"id": name, "messages": row, "origin": ORIGIN[name]})
        for name, row in ROWS.items()
    ]
    (root / "rows.jsonl").write_text("\n".join(lines))
    manifest = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "chat"},
        "spec": SPEC,
    }
    (root / "job.yaml").write_text(yaml.safe_dump(manifest))
    command = "from finetune_operator.cli.main import main; main()"
    ended = subprocess.run(
        [
            *(sys.executable, "-c", command, "run", "-f", "job.yaml"),
            *("--workspace", "workspace", "--output", "lines"),
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return Finished(ended.returncode, ended.stdout, Workspace(root=root / "workspace"))


def test_a_manifest_becomes_a_verdict(chat: Finished) -> None:
    assert chat.code == ExitCode.DONE, chat.said
    assert chat.status.phase is Phase.COMPLETE
    assert [result.passed for result in chat.report.gate] == [True, True, True]
    (trained,) = (c for c in chat.status.conditions if c.type == ConditionType.TRAINED)
    assert "Packed rows filled" in (trained.message or "")


def test_it_answers_questions_it_never_saw_and_stops_at_its_end_token(chat: Finished) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(chat.model)
    model: Any = AutoModelForCausalLM.from_pretrained(chat.model, dtype=torch.float32)
    ids = pq.read_table(chat.folder / LAYOUT.predictions)["row_id"].to_pylist()[:20]
    for messages in (ROWS[name] for name in ids):
        asked = tokenizer.apply_chat_template(
            messages[:-1], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"]
        (made,) = model.generate(asked, max_new_tokens=40, do_sample=False)
        answer = tokenizer.decode(made[asked.shape[1] :])
        assert answer == messages[-1]["content"] + "<|im_end|>"


def test_it_learned_the_answers_and_not_the_questions(chat: Finished) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(chat.model)
    model: Any = AutoModelForCausalLM.from_pretrained(chat.model, dtype=torch.float32)
    guess = math.log(len(tokenizer))
    words, turns = [], []
    for messages in list(ROWS.values())[:40]:
        text = tokenizer.apply_chat_template(messages[:1], tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            likely = model(input_ids=ids).logits[0].log_softmax(-1)
        nll = -likely[:-1].gather(1, ids[0, 1:, None])[:, 0]
        turns.append(float(nll[0]))
        words.append(float(nll[2:].mean()))
    # A model that learns them knows which word a turn begins with, and that the words are few.
    assert sum(turns) / len(turns) > guess / 2
    assert sum(words) / len(words) > guess / 2


def test_it_is_measured_against_the_model_that_it_was(chat: Finished) -> None:
    report = chat.report
    (untuned,) = report.baselines
    assert untuned.name is Baseline.UNTUNED
    assert untuned.metrics[Metric.PERPLEXITY].value > 100
    assert report.metrics[Metric.TOKEN_ACCURACY].value > 0.98
    assert untuned.error_reduction is not None
    assert (untuned.error_reduction.low or 0) > 0.9


def test_every_figure_follows_from_the_kept_predictions(chat: Finished) -> None:
    rows = pq.read_table(chat.folder / LAYOUT.predictions).to_pydict()
    compared = recompute(chat.folder / LAYOUT.output)
    assert {metric.value for metric in chat.report.metrics} <= compared
    assert {"untuned_perplexity", "untuned_errorReduction"} <= compared
    # The words of the answers, without the tokens that end them.
    sizes = [
        sum(len(one["content"]) + 1 for one in ROWS[name] if one["role"] == "assistant")
        for name in rows["row_id"]
    ]
    assert rows["bytes"] == sizes


def test_groups_of_rows_are_told_by_the_tokens_that_they_hold(chat: Finished) -> None:
    rows = pq.read_table(chat.folder / LAYOUT.predictions).to_pylist()
    assert {row["row_id"]: row["groups.origin"] for row in rows} == {
        row["row_id"]: ORIGIN[row["row_id"]] or "(missing)" for row in rows
    }
    (column,) = chat.report.groups
    missing, *compared = column.groups
    assert (missing.group, missing.contrasts) == ("(missing)", ())
    assert missing.insufficient == (Metric.TOKEN_ACCURACY, Metric.LOSS)
    for group in compared:
        mine = [row for row in rows if row["groups.origin"] == group.group]
        others = [row for row in rows if row["groups.origin"] != group.group]
        loss, rest = (
            sum(row["nll"] for row in side) / sum(row["tokens"] for row in side)
            for side in (mine, others)
        )
        told = {one.metric: one for one in group.contrasts}
        assert told[Metric.LOSS].value == pytest.approx(loss)
        assert told[Metric.LOSS].rest == pytest.approx(rest)
        assert not any(one.found for one in group.contrasts), "they were drawn by their number"
    confirmed = recompute(chat.folder / LAYOUT.output)
    assert {"origin north None", "origin south ('loss', None)"} <= confirmed
    assert "On whom does it fail?" in chat.workspace.page.read_text()


def test_its_answers_stand_beside_those_of_the_untuned_model(chat: Finished) -> None:
    generations = chat.report.generations
    assert len(generations) == 16
    for one in generations:
        assert one.asked.endswith("<|im_start|>assistant\n")
        assert one.answered == one.expected.removesuffix("\n")
        assert one.untuned != one.answered
    page = chat.workspace.page.read_text()
    assert "What does it answer?" in page
    assert "perplexity" in page


def test_the_data_report_counts_what_is_learned(chat: Finished) -> None:
    report = PrepareReport.model_validate_json((chat.folder / LAYOUT.prepare_report).read_bytes())
    tokens = report.data.tokens
    assert tokens is not None
    assert tokens.learned is not None
    assert 0 < tokens.learned < tokens.sum / 2
    text = (chat.folder / LAYOUT.rendered_rows).read_text()
    assert text.count("=== row c") == 20


def test_the_export_answers_in_a_plain_pipeline(chat: Finished) -> None:
    made: Any = pipeline("text-generation", model=str(chat.model))
    asked = [{"role": "user", "content": "green one two"}]
    (answer,) = made(asked, do_sample=False, max_new_tokens=30)
    assert answer["generated_text"][-1] == {"role": "assistant", "content": "green green"}
    card = (chat.model / "README.md").read_text()
    assert '[[{"role": "user", "content": "a question"}]]' in card
