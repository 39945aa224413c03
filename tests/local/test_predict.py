"""A finished model on rows: the answers of a plain pipeline, in order, whatever the file holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
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
from finetune_trainer.models.export import MANIFEST, ExportManifest
from finetune_trainer.prediction import lines
from finetune_trainer.training.manifest import digest_files
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


A_CLASSIFIER = ("a", "b")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """An exported model in `model`, and two rows in `rows.jsonl`."""
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "the film"}, {"text": "a story"}])
    bert = a_bert(BertForSequenceClassification, A_CLASSIFIER, "single_label_classification")
    return exported(tmp_path / "model", bert)


def ended(model: Path, source: Path | str, target: Path | str, *options: str) -> int:
    told = ["predict", str(model), "--input", str(source), "--output", str(target)]
    return main([*told, *options])


def test_rows_are_not_lost_to_the_answers(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    before = rows.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(rows)
    for target in (rows, tmp_path / "link.jsonl"):
        assert ended(classifier, rows, target) == ExitCode.USAGE
        assert f"{target}: holds the rows that are asked" in capsys.readouterr().err
        assert rows.read_bytes() == before


def test_answers_take_the_place_of_no_device_pipe_or_link(classifier: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    try:
        assert ended(classifier, rows, pipe) == ExitCode.DONE
        assert pipe.is_fifo()
        told, _ = reader.communicate(timeout=60)
    finally:
        reader.kill()
    link.symlink_to(file)
    assert ended(classifier, rows, link) == ExitCode.DONE
    assert link.is_symlink()
    assert file.read_bytes() == told
    assert [json.loads(line)["line"] for line in told.splitlines()] == [1, 2]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("folder", ExitCode.USAGE, "is a folder; name a file for the answers"),
        ("nowhere/answers.jsonl", ExitCode.STORAGE, "no such folder; make it"),
        ("rows.jsonl/answers.jsonl", ExitCode.STORAGE, "no such folder; make it"),
    ],
)
def test_answers_without_a_place_are_refused_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, words: str
) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "a"}])
    (tmp_path / "folder").mkdir()
    assert ended(tmp_path / "no-model", tmp_path / "rows.jsonl", tmp_path / name) == code
    assert f"{tmp_path / name}: {words}" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "folder"}


def test_answers_that_come_to_nothing_leave_nothing(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune_trainer.prediction.command._answer_window", fail)
    assert ended(classifier, tmp_path / "rows.jsonl", tmp_path / "out.jsonl") == ExitCode.STOPPED
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "model"}


def test_a_row_without_the_column_is_told_which_it_has(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    told = ended(classifier, rows, tmp_path / "out.jsonl", "--column", "txt")
    assert told == ExitCode.DATA
    said = capsys.readouterr().err
    assert "line 1: no column 'txt' (--column); the columns are: text; did you mean 'text'?" in said


def damaged(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": lambda model: damaged(model / "model.safetensors", -5),
    "a bit of the names of weights": lambda model: damaged(model / "model.safetensors", 20),
    "weights cut short": lambda model: os.truncate(model / "model.safetensors", 5000),
    "no weights in the file": lambda model: os.truncate(model / "model.safetensors", 0),
    "a bit of the manifest": lambda model: damaged(model / MANIFEST, 3),
    "a file that is gone": lambda model: (model / "tokenizer_config.json").unlink(),
    "other labels": lambda model: (model / "config.json").write_text(
        (model / "config.json").read_text().replace('"a"', '"c"')
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_model_that_is_not_as_it_was_exported_is_not_asked(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    names = sorted(path.name for path in classifier.iterdir())
    manifest = ExportManifest(files=tuple(digest_files(classifier, names)))
    (classifier / MANIFEST).write_text(manifest.model_dump_json(by_alias=True))
    assert ended(classifier, tmp_path / "rows.jsonl", tmp_path / "out.jsonl") == ExitCode.DONE
    DAMAGES[case](classifier)
    capsys.readouterr()
    assert ended(classifier, tmp_path / "rows.jsonl", tmp_path / "out.jsonl") == ExitCode.USAGE
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "not as the job exported it" in said


DAMAGES_WITHOUT_MANIFEST: dict[str, Callable[[Path], object]] = {
    case: DAMAGES[case]
    for case in ("a bit of the names of weights", "weights cut short", "no weights in the file")
} | {
    "a configuration that is a list": lambda model: (model / "config.json").write_text("[]"),
    "weights of another shape": lambda model: (model / "config.json").write_text(
        (model / "config.json").read_text().replace('"hidden_size": 32', '"hidden_size": 64')
    ),
}


@pytest.mark.parametrize("case", DAMAGES_WITHOUT_MANIFEST)
def test_a_damaged_model_without_manifest_is_one_message_too(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    DAMAGES_WITHOUT_MANIFEST[case](classifier)
    assert ended(classifier, tmp_path / "rows.jsonl", tmp_path / "out.jsonl") == ExitCode.USAGE
    assert str(classifier) in capsys.readouterr().err


def test_a_length_of_answers_is_for_language_models(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ended(
        classifier, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", "--max-new-tokens", "4"
    )
    assert told == ExitCode.USAGE
    assert "--max-new-tokens: goes with a language model" in capsys.readouterr().err


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
    assert "has no config.json" in message(tmp_path / "rows.jsonl")
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
            *("predict", "model", "--input", "-", "--output", "-"),
        ],
        cwd=tmp_path,
        input=(tmp_path / "rows.jsonl").read_bytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == ExitCode.DATA, done.stderr
    # Standard output holds answers and nothing else.
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in one for one in answers] == [False, True]
    assert b"predict: 2 rows, 1 with errors" in done.stderr
