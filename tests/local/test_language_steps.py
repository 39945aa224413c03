"""The three steps on texts and on prompts with completions, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from peft import PeftModel
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    GPT2Model,
    LlamaModel,
    PreTrainedModel,
)

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.lora import Lora
from finetune_api.report import ExitCode, Step, TrainResult
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT, Run
from finetune_api.tasks import Metric, Task
from finetune_api.training import Truncation
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment, Workspace
from finetune_trainer.errors import DataError, UsageError
from finetune_trainer.evaluation.step import evaluate
from finetune_trainer.models.lora import adapt, save_adapter
from finetune_trainer.training.manifest import (
    Identity,
    Manifest,
    TrainingState,
    digest_files,
    files_of,
)
from harness import training as training_gang
from harness.language import (
    CHATML,
    COLORS,
    NUMBERS,
    a_gpt2,
    a_llama,
    chats,
    from_tokenizer,
    gpt2_tokenizer,
    llama_tokenizer,
    saved,
    with_template,
)
from harness.trainer import a_run, an_environment

PROMPTS = [
    {"id": f"p{color}{number}", "prompt": f"{color} {number}", "completion": f" {number}"}
    for color in COLORS
    for number in NUMBERS
]
TEXTS = [{"id": row["id"], "text": row["prompt"] + row["completion"]} for row in PROMPTS]
FORMS: dict[str, list[dict[str, Any]]] = {"prompts": PROMPTS, "texts": TEXTS}


@dataclass(frozen=True)
class Job:
    """A folder with a model and rows."""

    folder: Path
    columns: dict[str, str]

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "workspace")

    def run(self, step: Step = Step.PREPARE, **changes: Any) -> Run:
        dataset = {"train": "rows.jsonl", "columns": {"id": "id", **self.columns}}
        training = {"max_length": 64, "truncation": Truncation.DROP}
        return a_run(
            task=Task.CAUSAL_LM,
            dataset=dataset | changes.pop("dataset", {}),
            model="model",
            step=step,
            training=training | changes.pop("training", {}),
            evaluation={"resamples": 200} | changes.pop("evaluation", {}),
            **changes,
        )

    def environment(self, run: Run) -> RankEnvironment:
        return RankEnvironment.from_env(an_environment(self.folder, run, BASE=str(self.folder)))

    def prepare(self, **changes: Any) -> PrepareReport:
        run = self.run(**changes)
        return prepare(self.environment(run), run)

    def evaluate(self, model: PreTrainedModel | PeftModel, **changes: Any) -> EvaluationReport:
        """Score a model, or an adapter, as the checkpoint of step 1."""
        report = self.prepare(**changes)
        best = LAYOUT.checkpoint(1, 1)
        run = self.run(Step.EVALUATE, best_checkpoint=str(best), **changes)
        folder = self.workspace.path(best)
        if isinstance(model, PeftModel):
            folder.mkdir(parents=True)
            save_adapter(model, folder)
        else:
            model.save_pretrained(folder)
        manifest = Manifest(
            attempt=1,
            identity=Identity(
                spec_digest=run.spec_digest,
                split_digest=report.data.split_digest,
                world_size=1,
            ),
            state=TrainingState(step=1),
            files=tuple(digest_files(folder, files_of(folder))),
        )
        (folder / CHECKPOINT_MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
        reference = evaluate(self.environment(run), run)
        return EvaluationReport.model_validate_json(
            self.workspace.path(reference.path).read_bytes()
        )


@pytest.fixture
def a_job(tmp_path: Path) -> Callable[..., Job]:
    def make(
        rows: list[dict[str, Any]],
        model: PreTrainedModel | None = None,
        tokenizer: Any = None,  # transformers' tokenizers share no useful type
    ) -> Job:
        tokenizer = tokenizer or llama_tokenizer()
        saved(model or a_llama(tokenizer), tokenizer, tmp_path / "model")
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Job(tmp_path, {name: name for name in rows[0] if name != "id"})

    return make


def cleaned(report: PrepareReport) -> dict[str, int]:
    return {one.step: one.rows for one in report.data.cleaning if one.rows}


def test_prompts_are_read_and_completions_learned(a_job: Callable[..., Job]) -> None:
    job = a_job(PROMPTS)
    report = job.prepare()
    assert report.labels == ()
    assert report.model.architecture == "LlamaForCausalLM"
    assert report.model.classes == report.model.vocabulary
    assert report.model.per_token
    tokenizer = llama_tokenizer()
    for row in load_from_disk(str(job.workspace.path(LAYOUT.prepared) / "train")):
        pairs = list(zip(row["input_ids"], row["token_weights"], strict=True))
        learned = str(tokenizer.decode([one for one, weight in pairs if weight > 0]))
        assert learned.removesuffix("</s>").strip() in NUMBERS
        assert learned.endswith("</s>")
        assert row["weight"] == sum(row["token_weights"])


def test_texts_are_learned_whole(a_job: Callable[..., Job]) -> None:
    report = a_job(TEXTS).prepare()
    tokens = report.data.tokens
    assert tokens is not None
    assert tokens.learned == tokens.sum - report.data.train_rows, "all but each row's first"


@pytest.mark.parametrize("form", FORMS)
def test_an_export_goes_on_in_a_plain_pipeline_as_it_was_scored(
    a_job: Callable[..., Job], form: str
) -> None:
    tokenizer = gpt2_tokenizer() if form == "texts" else llama_tokenizer()
    make = a_gpt2 if form == "texts" else a_llama
    job = a_job(FORMS[form], make(tokenizer), tokenizer)
    report = job.evaluate(make(tokenizer, seed=8))
    assert report.model is not None
    assert {Metric.PERPLEXITY, Metric.BITS_PER_BYTE} < report.metrics.keys()


@pytest.mark.parametrize("output", ["merged", "adapter"])
def test_an_adapter_is_scored_and_exported_in_the_form_in_which_it_leaves(
    a_job: Callable[..., Job], output: str
) -> None:
    tokenizer = llama_tokenizer()
    job, lora = a_job(PROMPTS, a_llama(tokenizer), tokenizer), {"rank": 2, "output": output}
    # A base model that knows no stop of its own: the adapter's settings say where it does.
    (job.folder / "model" / "generation_config.json").unlink()
    adapted = adapt(a_llama(tokenizer), "model", Lora.model_validate(lora), (), seed=1)
    trained = [one for one in adapted.parameters() if one.requires_grad]
    torch.manual_seed(2)
    for weight in trained:
        torch.nn.init.normal_(weight, std=0.5)
    report = job.evaluate(adapted, lora=lora)
    assert job.prepare(lora=lora).model.trainable_parameters == sum(one.numel() for one in trained)
    assert report.metrics[Metric.LOSS].value != report.baselines[0].metrics[Metric.LOSS].value
    export = job.workspace.path(LAYOUT.output_model)
    assert (export / "adapter_model.safetensors").exists() == (output == "adapter")
    stops = json.loads((export / "generation_config.json").read_bytes())["eos_token_id"]
    assert stops == [tokenizer.eos_token_id]
    card = (export / "README.md").read_text()
    assert ("GenerationConfig.from_pretrained(adapter)" in card) == (output == "adapter")


def test_rows_that_are_too_long_or_teach_nothing_are_dropped_and_counted(
    a_job: Callable[..., Job],
) -> None:
    long = {"id": "long", "prompt": "one " * 90, "completion": " two"}
    empty = {"id": "empty", "prompt": "ninety", "completion": ""}
    job = a_job([*PROMPTS, long, empty])
    report = job.prepare()
    assert cleaned(report) == {"longer than training.maxLength": 1, "no answer": 1}
    cut = job.prepare(training={"truncation": Truncation.KEEP_END})
    assert cleaned(cut) == {"no answer": 1}
    start = job.prepare(training={"truncation": Truncation.KEEP_START})
    assert cleaned(start) == {"no answer": 1, "no learned token": 1}


def test_more_rows_lost_than_may_be_is_an_error_that_names_them(
    a_job: Callable[..., Job],
) -> None:
    job = a_job(PROMPTS)
    with pytest.raises(DataError) as caught:
        job.prepare(training={"max_length": 8})
    told = str(caught.value)
    assert "would be left out, more than 5 %" in told
    assert "longer than training.maxLength (rows p" in told
    assert "dataset.maxDroppedPercent" in told
    report = job.prepare(dataset={"max_dropped_percent": 99}, training={"max_length": 10})
    assert 0 < report.data.kept_rows < 0.95 * len(PROMPTS)


def test_answers_do_not_stay_in_the_report_where_no_rows_result_may(
    a_job: Callable[..., Job],
) -> None:
    job = a_job(PROMPTS)
    job.prepare()
    kept = job.evaluate(a_llama(llama_tokenizer()))
    report = job.evaluate(a_llama(llama_tokenizer()), evaluation={"row_results": "Discard"})
    assert kept.generations
    assert report.generations == ()
    assert not job.workspace.path(LAYOUT.predictions).exists()


def test_what_may_not_be_kept_of_the_rows_is_not(a_job: Callable[..., Job]) -> None:
    job = a_job(PROMPTS)
    shown = job.workspace.path(LAYOUT.rendered_rows)
    job.prepare()
    assert "⟦" in shown.read_text()
    report = job.evaluate(a_llama(llama_tokenizer()), evaluation={"keep_predictions": False})
    assert report.generations == ()
    assert b"asked" not in job.workspace.path(LAYOUT.predictions).read_bytes()


def test_an_answer_that_goes_on_from_another_is_proved_as_a_pipeline_asks_it(
    a_job: Callable[..., Job],
) -> None:
    rows = [
        {
            "id": row["id"],
            "messages": [
                {"role": "assistant", "content": row["prompt"], "weight": 0},
                {"role": "assistant", "content": row["completion"]},
            ],
        }
        for row in PROMPTS
    ]
    tokenizer = with_template(CHATML)
    report = a_job(rows, a_gpt2(tokenizer), tokenizer).evaluate(a_gpt2(tokenizer, seed=8))
    assert report.model is not None


def test_chats_need_a_template(a_job: Callable[..., Job]) -> None:
    with pytest.raises(UsageError, match=r"has no chat template, which dataset\.columns\.messages"):
        a_job(chats(20), a_gpt2(gpt2_tokenizer()), gpt2_tokenizer()).prepare()


def test_an_encoder_that_would_see_the_token_to_predict_is_refused(
    a_job: Callable[..., Job],
) -> None:
    config = BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=1)
    with pytest.raises(UsageError, match="bert is an architecture without a head for causal-lm"):
        a_job(PROMPTS, BertLMHeadModel(config)).prepare()


def test_a_model_without_its_head_is_refused_where_it_would_be_drawn(
    a_job: Callable[..., Job],
) -> None:
    backbone = a_llama(llama_tokenizer()).model
    assert isinstance(backbone, LlamaModel)
    with pytest.raises(UsageError, match=r"\(lm_head.weight\); take a whole language model"):
        a_job(PROMPTS, backbone).prepare()


def test_a_head_that_is_the_embedding_is_not_missing(a_job: Callable[..., Job]) -> None:
    tokenizer = gpt2_tokenizer()
    backbone = a_gpt2(tokenizer).transformer
    assert isinstance(backbone, GPT2Model)
    assert a_job(PROMPTS, backbone, tokenizer).prepare().model.architecture == "GPT2LMHeadModel"


def test_a_tokenizer_that_ends_every_text_is_refused(a_job: Callable[..., Job]) -> None:
    from tokenizers import Tokenizer, processors

    inner = Tokenizer.from_str(gpt2_tokenizer().backend_tokenizer.to_str())
    inner.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer = from_tokenizer(inner, eos_token="<|endoftext|>")
    with pytest.raises(UsageError, match="a prompt must not end with"):
        a_job(PROMPTS, a_gpt2(gpt2_tokenizer()), tokenizer).prepare()


def test_settings_of_generation_that_could_not_be_saved_are_refused(
    a_job: Callable[..., Job],
) -> None:
    job = a_job(PROMPTS)
    stated = {"do_sample": False, "temperature": 0.5, "transformers_version": "5.0.0"}
    (job.folder / "model" / "generation_config.json").write_text(json.dumps(stated))
    with pytest.raises(UsageError, match=r"generation_config.json is not valid .*; mend it"):
        job.prepare()


def train(job: Job, model: PreTrainedModel, name: str, **changes: Any) -> tuple[TrainResult, str]:
    """Train three steps: the result, and what the pod logged."""
    training = {
        "max_length": 64,
        "truncation": Truncation.DROP,
        "epochs": None,
        "max_steps": 3,
        "checkpoint_every_steps": 100,
        "evals_per_epoch": 1,
    }
    ranks, lora = changes.pop("ranks", 1), changes.pop("lora", None)
    split = {"micro_batch_size": 4, "accumulation_steps": 4 // ranks, "zero_stage": 0}
    claims = job.folder / "claims"
    saved(model, llama_tokenizer(), claims / "models" / "tiny")
    gang = training_gang.Job(
        folder=job.folder,
        training=training | split | changes,
        ranks=ranks,
        task=Task.CAUSAL_LM,
        dataset={"train": "rows.jsonl", "columns": job.columns},
        model="pvc://models/tiny",
        lora=lora,
    ).copied(job.folder.with_name(f"{job.folder.name}-{name}"))
    with training_gang.pods(gang, 1) as (pod,):
        code, told = pod.end()
        log = pod.log.read_text()
    assert code == ExitCode.DONE, log
    assert told.train is not None
    adapters = list(gang.checkpoints.rglob("adapter_model.safetensors"))
    assert bool(adapters) == (lora is not None)
    return told.train, log


@pytest.mark.parametrize("lora", [None, {"rank": 4, "dropout": 0}])
def test_packed_training_is_the_unpacked_one_on_any_gang(
    a_job: Callable[..., Job], lora: dict[str, Any] | None
) -> None:
    job, model = a_job(PROMPTS), a_llama(llama_tokenizer())
    job.prepare(lora=lora)
    alone, _ = train(job, model, "alone", lora=lora)
    gang = {"ranks": 2, "zero_stage": 3, "activation_checkpointing": True}
    packed, _ = train(job, model, "packed", lora=lora, packing=True, **gang)
    assert alone.packed_fill is None
    assert packed.packed_fill is not None
    assert packed.packed_fill > 0.7
    assert packed.final_loss == pytest.approx(alone.final_loss, abs=1e-4)
    assert packed.best_select_loss == pytest.approx(alone.best_select_loss, abs=1e-4)


def test_a_model_that_sees_over_borders_trains_unpacked_and_it_is_said(
    a_job: Callable[..., Job],
) -> None:
    # Its positions are distances within the sequence; it takes no others.
    config = BloomConfig(vocab_size=len(llama_tokenizer()), hidden_size=32, n_layer=2, n_head=2)
    model = BloomForCausalLM(config)
    job = a_job(PROMPTS, model)
    job.prepare()
    result, log = train(job, model, "bloom", packing=True)
    assert result.packed_fill is None
    assert "the model sees over their borders" in log
