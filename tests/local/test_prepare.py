"""The prepare step: what it leaves, that it leaves it whole, and that it makes it once."""

from __future__ import annotations

import csv
import json
import re
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from finetune_api.datareport import PrepareReport
from finetune_api.report import ExitCode, FailureClass, Termination
from finetune_api.run import LAYOUT, Run
from finetune_trainer.__main__ import main
from finetune_trainer.data.prepare import prepare
from finetune_trainer.data.prepared import MARKER
from finetune_trainer.data.rows import input_key
from finetune_trainer.data.sources import digest_of
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import DataError, StorageError, UsageError
from finetune_trainer.evaluation.baselines import fit_baselines, load_baselines
from harness.trainer import a_run, an_environment

DATASET = {"train": "rows.csv", "columns": {"id": "id"}}


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, sentences_csv: Path) -> Path:
    """Give a folder with claims/models/tiny-bert and manifest/rows.csv."""
    shutil.copytree(tiny_model, tmp_path / "claims" / "models" / "tiny-bert")
    (tmp_path / "manifest").mkdir()
    shutil.copy(sentences_csv, tmp_path / "manifest" / "rows.csv")
    return tmp_path


def environ_of(place: Path, run: Run) -> dict[str, str]:
    return an_environment(place, run, BASE=str(place / "manifest"))


def prepared(place: Path, **dataset: Any) -> tuple[RankEnvironment, PrepareReport]:
    run = a_run(dataset=DATASET | dataset)
    environment = RankEnvironment.from_env(environ_of(place, run))
    return environment, prepare(environment, run)


def rows_of(environment: RankEnvironment) -> dict[str, list[dict[str, Any]]]:
    from datasets import load_from_disk

    folders = {
        "train": environment.workspace.path(LAYOUT.prepared) / "train",
        "select": environment.workspace.path(LAYOUT.prepared) / "select",
        "test": environment.workspace.path(LAYOUT.test),
    }
    return {role: load_from_disk(str(folder)).to_list() for role, folder in folders.items()}


def sources_of(place: Path) -> dict[str, dict[str, str]]:
    with (place / "manifest" / "rows.csv").open(encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_every_kept_row_is_in_one_role_with_its_own_tokens_and_label(place: Path) -> None:
    from transformers import AutoTokenizer

    environment, report = prepared(place)
    rows = rows_of(environment)
    sources = sources_of(place)
    tokenizer = AutoTokenizer.from_pretrained(place / "claims" / "models" / "tiny-bert")
    assert sorted(row["row_id"] for of_role in rows.values() for row in of_role) == sorted(sources)
    for of_role in rows.values():
        for row in of_role:
            source = sources[row["row_id"]]
            assert row["input_ids"] == tokenizer(source["text"])["input_ids"]
            assert row["attention_mask"] == [1] * len(row["input_ids"])
            assert row["token_type_ids"] == [0] * len(row["input_ids"])
            assert report.labels[row["label"]] == source["label"]
            assert row["group"] is None
    assert report.data.read_rows == report.data.kept_rows == 400
    texts = report.data.texts
    assert texts is not None
    words = [sources[row["row_id"]]["text"].split() for row in rows["train"]]
    assert (texts.words, texts.distinct_words) == (sum(map(len, words)), len(set().union(*words)))
    assert texts.effective_rows == pytest.approx(len(rows["train"]))
    counted = (report.data.train_rows, report.data.select_rows, report.data.test_rows)
    assert counted == tuple(len(of_role) for of_role in rows.values())


def test_test_rows_never_reach_what_trains_or_selects(place: Path) -> None:
    environment, _ = prepared(place)
    rows = rows_of(environment)
    test_ids = {row["row_id"] for row in rows["test"]}
    test_inputs = {tuple(row["input_ids"]) for row in rows["test"]}
    assert "text" in rows["test"][0]
    for role in ("train", "select"):
        assert "text" not in rows[role][0]
        assert not test_ids & {row["row_id"] for row in rows[role]}
        assert not test_inputs & {tuple(row["input_ids"]) for row in rows[role]}
    # Nor do their words stand anywhere outside of the test set, the fetched copy included.
    secret = max((row["text"] for row in rows["test"]), key=len).encode()
    holding = [
        path
        for path in environment.workspace.root.rglob("*")
        if path.is_file() and secret in path.read_bytes()
    ]
    assert [path.parent for path in holding] == [environment.workspace.path(LAYOUT.test)]


def test_baselines_learn_from_the_training_rows_alone(place: Path) -> None:
    environment, report = prepared(place)
    sources = sources_of(place)
    train = [sources[row["row_id"]] for row in rows_of(environment)["train"]]
    texts = [row["text"] for row in train]
    apart = fit_baselines(
        texts,
        [report.labels.index(row["label"]) for row in train],
        [b"input:" + input_key(text) for text in texts],
        seed=0,
    )
    kept = load_baselines(environment.workspace.path(LAYOUT.baselines))
    texts = [row["text"] for row in rows_of(environment)["test"]]
    told = [one.baseline.predict_proba(texts) for one in apart]
    for one, expected in zip(kept, told, strict=True):
        np.testing.assert_allclose(one.predict_proba(texts), expected, rtol=1e-12)
    assert [one.name for one in report.baselines] == ["majority", "tfidf", "probe"]


def test_suspect_rows_of_training_are_counted_and_listed_by_their_ids_alone(place: Path) -> None:
    environment, report = prepared(place)
    found = report.data.suspects
    assert found is not None
    assert found.looked_at == report.data.train_rows
    assert 0 < found.rows < found.looked_at / 10
    assert {(one.has, one.likely) for one in found.pairs} <= {
        ("negative", "positive"),
        ("positive", "negative"),
    }
    with environment.workspace.path(LAYOUT.suspects).open(newline="") as file:
        lines = list(csv.DictReader(file))
    ids = [line["row_id"] for line in lines]
    assert (len(ids), tuple(ids[:10])) == (found.rows, found.examples)
    train = {row["row_id"]: row["label"] for row in rows_of(environment)["train"]}
    assert [line["has"] for line in lines] == [report.labels[train[one]] for one in ids]
    content = environment.workspace.path(LAYOUT.suspects).read_text()
    assert not any(row["text"] in content for row in sources_of(place).values())


def test_a_test_set_of_its_own_stays_whole_and_its_rows_leave_training(place: Path) -> None:
    own = list(sources_of(place).values())[:50]
    with (place / "manifest" / "test.jsonl").open("w") as file:
        for row in own:
            # The same sentence, said louder.
            file.write(
                json.dumps(row | {"id": f"t{row['id']}", "text": row["text"].upper()}) + "\n"
            )
    environment, report = prepared(place, test="test.jsonl")
    rows = rows_of(environment)
    assert [row["row_id"] for row in rows["test"]] == [f"t{row['id']}" for row in own]
    left = {row["row_id"] for role in ("train", "select") for row in rows[role]}
    assert left == set(sources_of(place)) - {row["id"] for row in own}
    leaks = [one for one in report.data.cleaning if one.step.startswith("leaks")]
    assert [(one.rows, one.dropped) for one in leaks] == [(50, True), (0, True)]
    assert report.data.read_rows == 450


@pytest.mark.parametrize(("said", "left"), [(None, 0), ("ignore", 30)])
def test_rows_that_nearly_stand_in_the_test_set_leave_training(
    place: Path, said: str | None, left: int
) -> None:
    sources = list(sources_of(place).values())
    texts = [" ".join(one["text"] for one in sources[at : at + 4]) for at in range(0, 120, 4)]
    files = {
        "test.jsonl": [
            {"id": f"t{number}", "text": text, "label": "positive"}
            for number, text in enumerate(texts)
        ],
        "rows.jsonl": [
            *sources,
            *(
                {"id": f"n{number}", "text": f"{text} Indeed.", "label": "negative"}
                for number, text in enumerate(texts)
            ),
        ],
    }
    for name, written in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in written)
        (place / "manifest" / name).write_text(lines, encoding="utf-8")
    cleaning = {} if said is None else {"nearDuplicates": said}
    environment, report = prepared(place, train="rows.jsonl", test="test.jsonl", cleaning=cleaning)
    rows = rows_of(environment)
    assert [row["row_id"] for row in rows["test"]] == [f"t{number}" for number in range(30)]
    learned = {row["row_id"] for role in ("train", "select") for row in rows[role]}
    assert len(learned & {f"n{number}" for number in range(30)}) == left
    counted = {one.step: one for one in report.data.cleaning}
    if said is None:
        assert counted["leaks: near duplicate in another role"].rows == 30
        assert counted["near duplicates, kept"].unchanged
    else:
        assert not [step for step in counted if "near" in step]


def test_long_rows_are_cut_with_their_special_tokens_and_counted(place: Path) -> None:
    run = a_run(dataset=DATASET, training={"max_length": 10})
    environment = RankEnvironment.from_env(environ_of(place, run))
    report = prepare(environment, run)
    rows = rows_of(environment)["train"]
    assert max(len(row["input_ids"]) for row in rows) == 10
    assert all(row["input_ids"][0] == 2 and row["input_ids"][-1] == 3 for row in rows)
    tokens = report.data.tokens
    assert tokens is not None
    lengths = {row_id: len(row["text"].split()) + 2 for row_id, row in sources_of(place).items()}
    in_train = [lengths[row["row_id"]] for row in rows]
    assert tokens.sum == sum(in_train)
    assert (tokens.min, tokens.max) == (min(in_train), max(in_train))
    assert tokens.truncated_rows == sum(length > 10 for length in in_train)
    assert all(lengths[row_id] > 10 for row_id in tokens.truncated_examples)


def test_labels_stand_in_the_order_that_was_named(place: Path) -> None:
    _, report = prepared(place, labels=["positive", "negative"])
    assert report.labels == ("positive", "negative")
    assert [one.label for one in report.data.classes] == ["positive", "negative"]


def test_the_models_facts_are_those_of_its_configuration(place: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    _, report = prepared(place)
    model = AutoModelForSequenceClassification.from_pretrained(
        place / "claims" / "models" / "tiny-bert", num_labels=2
    )
    facts = report.model
    assert facts.parameters == model.num_parameters()
    assert facts.trainable_parameters == facts.parameters
    assert (facts.layers, facts.hidden_size, facts.intermediate_size) == (2, 32, 64)
    assert (facts.attention_heads, facts.max_positions, facts.classes) == (2, 64, 2)
    assert facts.architecture == "BertForSequenceClassification"


def snapshot(environment: RankEnvironment) -> dict[str, tuple[int, bytes]]:
    root = environment.workspace.root
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


def test_a_second_run_serves_what_the_first_one_made(place: Path) -> None:
    environment, report = prepared(place)
    before = snapshot(environment)
    again, same = prepared(place)
    assert same == report
    assert snapshot(again) == before


def test_the_same_run_elsewhere_makes_the_same(place: Path) -> None:
    environment, report = prepared(place)
    rows = rows_of(environment)
    shutil.rmtree(environment.workspace.root)
    again, same = prepared(place)
    assert same == report
    assert rows_of(again) == rows


@pytest.mark.parametrize("part", [LAYOUT.prepare_report, MARKER])
def test_what_was_left_half_made_is_made_again(place: Path, part: PurePosixPath) -> None:
    environment, report = prepared(place)
    rows = rows_of(environment)
    path = environment.workspace.path(part)
    path.write_bytes(path.read_bytes()[:-10])
    leftover = environment.workspace.path("data/.making/sources")
    leftover.mkdir(parents=True)
    again, same = prepared(place)
    assert same == report
    assert rows_of(again) == rows
    assert not leftover.exists()


def test_what_ends_between_old_and_new_is_not_taken_for_either(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, _ = prepared(place)
    with monkeypatch.context() as patch:

        def fail(_: Path) -> None:
            raise OSError(5, "Input/output error")

        patch.setattr("finetune_trainer.data.prepared.sync", fail)
        with pytest.raises(StorageError, match="Input/output error"):
            prepared(place, split={"seed": 1})
    assert not environment.workspace.path(MARKER).exists()
    again, report = prepared(place, split={"seed": 1})
    assert report.data.train_rows == len(rows_of(again)["train"])


def test_changed_files_are_prepared_anew_until_something_was_trained_on_them(place: Path) -> None:
    _, first = prepared(place)
    with (place / "manifest" / "rows.csv").open("a") as file:
        file.write("new,a wholly new sentence,positive\n")
    environment, second = prepared(place)
    assert second.data.read_rows == 401
    assert second.data.data_digest != first.data.data_digest
    assert second.data.split_digest != first.data.split_digest
    environment.workspace.path(LAYOUT.checkpoint(1, 10)).mkdir(parents=True)
    assert prepared(place)[1] == second
    with (place / "manifest" / "rows.csv").open("a") as file:
        file.write("newer,another new sentence,positive\n")
    with pytest.raises(DataError, match="files changed since they were prepared"):
        prepared(place)
    with pytest.raises(UsageError, match="restore the manifest, or start a new job"):
        prepared(place, split={"seed": 1})


def finetune_trainer(place: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> int:
    for name, value in environ_of(place, run).items():
        monkeypatch.setenv(name, value)
    return main(["prepare"])


def test_the_last_word_names_the_report_and_its_digest(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finetune_trainer(place, monkeypatch, a_run(dataset=DATASET)) == ExitCode.DONE
    word = Termination.model_validate_json((place / "termination.json").read_bytes())
    report = place / "workspace" / str(LAYOUT.prepare_report)
    assert word.report is not None
    assert word.report.path == str(LAYOUT.prepare_report)
    assert word.report.digest == digest_of(report)
    PrepareReport.model_validate_json(report.read_bytes())


BAD_ROWS = {
    "missing": (None, "dataset.train: rows.csv: no such file; check the path"),
    "empty": ("", "rows.csv: the file is empty"),
    "header only": ("text,label\n", "rows.csv: no rows"),
    "wrong column": ("txt,label\nx,a\n", "the columns are: txt, label; did you mean 'txt'?"),
    "one class": ("text,label\nx,a\ny,a\n", "one class only, 'a'"),
    "no text at all": ("text,label\n,a\n ,b\n", "cleaning left none of 2 rows (no text: 2)"),
    "no labels": ("text,label\nx,\ny,b\n", "1 of 2 rows have no label"),
    "a rare class": (
        "text,label\n" + "".join(f"text {n},a\n" for n in range(60)) + "rare,b\n",
        "class 'b' has 1 rows in role train, fewer than 2; set dataset.split.strategy: stratified",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_one_line_and_exit_code_65(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    content, words = BAD_ROWS[case]
    path = place / "manifest" / "rows.csv"
    path.unlink()
    if content is not None:
        path.write_text(content)
    code = finetune_trainer(place, monkeypatch, a_run(dataset={"train": "rows.csv"}))
    assert code == ExitCode.DATA
    told = capfd.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert words in told[0]
    word = Termination.model_validate_json((place / "termination.json").read_bytes())
    assert word.failure is not None
    assert word.failure.failure_class is FailureClass.DATA_ERROR
    assert words in word.failure.message
    assert word.failure.traceback == ""
    assert not (place / "workspace" / str(MARKER)).exists()


def test_a_length_beyond_the_models_positions_is_refused(place: Path) -> None:
    run = a_run(dataset=DATASET, training={"max_length": 65})
    environment = RankEnvironment.from_env(environ_of(place, run))
    with pytest.raises(UsageError, match=r"training\.maxLength: 65 .* 64 positions; set it to 64"):
        prepare(environment, run)


def test_a_run_of_another_step_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environ_of(place, a_run(dataset=DATASET)).items():
        monkeypatch.setenv(name, value)
    assert main(["evaluate"]) == ExitCode.USAGE
    assert main(["prepair"]) == ExitCode.USAGE


def test_an_error_that_nobody_foresaw_tells_its_place_and_not_its_words(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a row's own words")

    monkeypatch.setattr("finetune_trainer.evaluation.class_evidence.fit_baselines", fail)
    assert finetune_trainer(place, monkeypatch, a_run(dataset=DATASET)) == ExitCode.INTERNAL
    told = capfd.readouterr().err + (place / "termination.json").read_text()
    assert "row's own words" not in told
    assert re.search(
        r"prepare: Unknown: KeyError.*\n.*class_evidence\.py:\d+ in fit_baselines", told, re.DOTALL
    )


def test_a_workspace_that_cant_be_made_is_a_storage_error(place: Path) -> None:
    run = a_run(dataset=DATASET)
    (place / "file").touch()
    environ = environ_of(place, run) | {"FINETUNE_WORKSPACE": str(place / "file" / "workspace")}
    with pytest.raises(StorageError, match=r"file/workspace.*volume is mounted, writable"):
        prepare(RankEnvironment.from_env(environ), run)


@contextmanager
def files_of_at_most(limit_bytes: int) -> Iterator[None]:
    """Let the kernel refuse what is written past so many bytes of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit_bytes", [10_000, 32_000])
def test_a_disk_that_takes_no_more_is_a_storage_error_and_leaves_no_marker(
    place: Path, monkeypatch: pytest.MonkeyPatch, limit_bytes: int
) -> None:
    with files_of_at_most(limit_bytes):
        code = finetune_trainer(place, monkeypatch, a_run(dataset=DATASET))
    word = Termination.model_validate_json((place / "termination.json").read_bytes())
    assert word.failure is not None
    assert word.failure.failure_class is FailureClass.STORAGE, word.failure
    assert code == ExitCode.STORAGE
    assert "File too large" in word.failure.message
    assert not (place / "workspace" / str(MARKER)).exists()
