"""A finished model on rows: the answers of a plain pipeline, in order, whatever the file holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
    pipeline,
)

from finetune_api.report import ExitCode
from finetune_trainer.__main__ import main
from finetune_trainer.prediction import lines
from harness.language import a_llama, chat_tokenizer, llama_tokenizer, saved
from harness.tagging import stories, write_jsonl
from harness.tinymodel import sentences, tiny_tokenizer

TAGS = ("B-PER", "I-PER", "O")


def a_bert(kind: type[PreTrainedModel], labels: tuple[str, ...], problem: str | None) -> Any:
    torch.manual_seed(4)
    settings: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        # Far from even, so that answers differ.
        "initializer_range": 0.5,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": problem,
        "pad_token_id": 0,
    }
    return kind(BertConfig(**settings))


def exported(folder: Path, model: Any, longest: int = 40) -> Path:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = longest
    return saved(model, tokenizer, folder)


def asked(
    folder: Path, rows: list[dict[str, Any]] | str, *options: str, code: int = ExitCode.DONE
) -> list[dict[str, Any]]:
    """Run the trainer's command on rows, or on a file's text."""
    source, target = folder / "rows.jsonl", folder / "answers.jsonl"
    if isinstance(rows, str):
        source.write_text(rows)
    else:
        write_jsonl(source, rows)
    told = ["predict", str(folder / "model"), "--input", str(source), "--output", str(target)]
    assert main([*told, *options]) == code
    return [json.loads(line) for line in target.read_text().splitlines()]


@pytest.mark.parametrize(
    "problem", ["single_label_classification", "multi_label_classification", "regression"]
)
def test_texts_are_told_as_by_a_plain_pipeline(
    tmp_path: Path, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several windows, so that order and rest matter.
    monkeypatch.setattr(lines, "WINDOW_ROWS", 7)
    labels = ("value",) if problem == "regression" else ("bad", "good", "so-so")
    folder = exported(
        tmp_path / "model", a_bert(BertForSequenceClassification, labels, problem), longest=12
    )
    texts = [text for text, _ in sentences(40)]
    answers = asked(
        tmp_path, [{"id": f"r{place}", "text": text} for place, text in enumerate(texts)]
    )
    assert [one["line"] for one in answers] == list(range(1, 41))
    assert [one["id"] for one in answers] == [f"r{place}" for place in range(40)]
    plain: Any = pipeline("text-classification", model=str(folder), top_k=None)
    for one, told in zip(answers, plain(texts, truncation=True), strict=True):
        scores = {each["label"]: each["score"] for each in told}
        if problem == "regression":
            assert one["value"] == pytest.approx(scores["value"], abs=1e-5)
            continue
        assert one["scores"] == pytest.approx(scores, abs=1e-5)
        if problem == "single_label_classification":
            assert one["label"] == max(scores, key=lambda label: scores[label])
        else:
            assert one["labels"] == [label for label in labels if scores[label] >= 0.5]
    cut = [one.get("cut", False) for one in answers]
    assert cut == [len(tiny_tokenizer()(text)["input_ids"]) > 12 for text in texts]
    assert {True, False} == set(cut)


@pytest.mark.parametrize("several", [True, False])
def test_labels_are_told_from_the_thresholds_that_the_job_chose(
    tmp_path: Path, *, several: bool
) -> None:
    labels = ("bad", "good", "so-so") if several else ("bad", "good")
    problem = "multi_label_classification" if several else "single_label_classification"
    model = a_bert(BertForSequenceClassification, labels, problem)
    cuts = {"bad": 0.3, "good": 0.7, "so-so": 0.5} if several else {"good": 0.8}
    model.config.thresholds = cuts
    exported(tmp_path / "model", model)
    answers = asked(tmp_path, [{"text": text} for text, _ in sentences(60)])
    between = 0
    for one in answers:
        scores = one["scores"]
        if several:
            assert one["labels"] == [label for label in labels if scores[label] >= cuts[label]]
            between += 0.3 <= scores["bad"] < 0.5 or 0.5 <= scores["good"] < 0.7
        else:
            assert one["label"] == ("good" if scores["good"] >= 0.8 else "bad")
            assert one["score"] == scores[one["label"]]
            between += 0.5 <= scores["good"] < 0.8
    assert between


def test_words_are_told_their_tags_and_spans(tmp_path: Path) -> None:
    folder = exported(tmp_path / "model", a_bert(BertForTokenClassification, TAGS, None))
    words = [row["tokens"] for row in stories(20)]
    answers = asked(tmp_path, [{"tokens": row} for row in words])
    plain: Any = pipeline("token-classification", model=str(folder), ignore_labels=[])
    for one, told in zip(answers, plain(words, is_split_into_words=True), strict=True):
        assert one["tags"] == [each["entity"] for each in told]
        assert one["scores"] == pytest.approx([each["score"] for each in told], abs=1e-5)
        for span in one["spans"]:
            assert set(one["tags"][span["start"] : span["end"]]) <= {"B-PER", "I-PER"}
    assert any(one["spans"] for one in answers)


def test_words_beyond_the_limit_are_outside(tmp_path: Path) -> None:
    exported(tmp_path / "model", a_bert(BertForTokenClassification, TAGS, None), longest=8)
    (one,) = asked(tmp_path, [{"tokens": ["the"] * 10}])
    assert one["cut"]
    assert one["tags"][6:] == ["O"] * 4
    assert one["scores"][6:] == [None] * 4


@pytest.mark.parametrize("chat", [False, True])
def test_a_language_model_goes_on_as_in_a_plain_pipeline(tmp_path: Path, *, chat: bool) -> None:
    tokenizer = chat_tokenizer() if chat else llama_tokenizer()
    folder = saved(a_llama(tokenizer), tokenizer, tmp_path / "model")
    given: list[Any] = ["red 1", "blue 7 blue", "red"]
    if chat:
        given = [[{"role": "user", "content": text}] for text in given]
    rows = [{"asked": one} for one in given]
    answers = asked(tmp_path, rows, "--column", "asked", "--max-new-tokens", "8")
    plain: Any = pipeline("text-generation", model=str(folder))
    for one, question in zip(answers, given, strict=True):
        (told,) = plain(question, do_sample=False, max_new_tokens=8, return_full_text=False)
        assert one["text"] == told["generated_text"]


def test_a_row_that_is_none_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(
        tmp_path / "model",
        a_bert(BertForSequenceClassification, ("a", "b"), "single_label_classification"),
    )
    secret = "nobody may read this"
    text = "\n".join(
        [
            '{"text": "the film"}',
            f'{{"text": "{secret}',
            "",
            '{"text": 3}',
            '{"other": "the film"}',
            json.dumps({"text": "x" * (1 << 20)}),
            '["the film"]',
            '{"text": "a story"}',
        ]
    )
    answers = asked(tmp_path, text, code=ExitCode.DATA)
    assert [one["line"] for one in answers] == [1, 2, 4, 5, 6, 7, 8]
    wrong = {one["line"]: one["error"] for one in answers if "error" in one}
    assert set(wrong) == {2, 4, 5, 6, 7}
    assert all(message.startswith(f"line {number}: ") for number, message in wrong.items())
    said = capsys.readouterr()
    assert "line 4: column 'text' holds a number, not text" in said.err
    assert "7 rows, 5 with errors" in said.out
    assert secret not in said.err + said.out + json.dumps(answers)


def test_what_is_no_finished_model_is_refused(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])

    def message(folder: Path) -> str:
        rows, target = str(tmp_path / "rows.jsonl"), str(tmp_path / "answers.jsonl")
        told = ["predict", str(folder), "--input", rows, "--output", target]
        assert main(told) == ExitCode.USAGE
        return capsys.readouterr().err

    assert "has no config.json" in message(tmp_path)
    assert "BertModel has no head of a task on texts" in message(tiny_model)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "export with model.lora.output: merged" in message(tmp_path)
    assert not (tmp_path / "answers.jsonl").exists()


def test_the_command_line_starts_the_trainer_and_ends_with_its_code(tmp_path: Path) -> None:
    exported(
        tmp_path / "model",
        a_bert(BertForSequenceClassification, ("a", "b"), "single_label_classification"),
    )
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "the film"}, {"text": 1}])
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from finetune_operator.cli.main import main; main()"),
            *("predict", "model", "--input", "rows.jsonl", "--output", "answers.jsonl"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.DATA, done.stderr
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
