"""Token classification from rows to a tagger in a plain pipeline."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    pipeline,
)

from finetune_api.report import ExitCode
from finetune_api.run import CHECKPOINT_MANIFEST, LAYOUT
from finetune_api.tasks import Baseline, Metric, Task
from finetune_trainer.errors import DataError
from finetune_trainer.models.check import load_tokenizer
from finetune_trainer.models.heads import TAGS
from finetune_trainer.models.load import load_model
from finetune_trainer.training.plan import StepPlan
from harness.evaluation import recompute
from harness.language import gpt2_tokenizer
from harness.tagging import KIND_OF_STORY, stories, write_jsonl
from harness.tasks import MODEL, Done, prepared, through_all_steps
from harness.training import Job, pods

TASK = Task.TOKEN_CLASSIFICATION
ROWS = "rows.jsonl"
DATASET: dict[str, Any] = {"train": ROWS, "columns": {"id": "id"}}
TRAINING: dict[str, Any] = {
    "epochs": None,
    "max_steps": 300,
    "learning_rate": 5e-3,
    "global_batch_size": 32,
    "micro_batch_size": 32,
    "accumulation_steps": 1,
    "evals_per_epoch": 1,
    "checkpoint_every_steps": 300,
}
GATE = [
    {"name": "finds-them", "metric": "microF1", "min": 0.7, "bound": "Lower"},
    {"name": "better-than-features", "metric": "errorReduction", "min": 0.3, "bound": "Lower"},
    {"name": "better-than-words", "metric": "errorReduction", "min": 0.3, "bound": "Lower",
     "against": "wordMajority"},
    {"name": "fair", "metric": "microF1", "group": "source", "maxShortfall": 0.9,
     "bound": "Upper", "insufficient": "pass"},
]  # fmt: skip
FEW_STEPS: dict[str, Any] = TRAINING | {
    "max_steps": 8,
    "learning_rate": 3e-3,
    "evals_per_epoch": 5,
    "checkpoint_every_steps": 4,
}


def stories_of_sources() -> list[dict[str, Any]]:
    """Every fifth row is a scan, whose names are often of the other kind."""
    chance, other = random.Random(5), {"PER": "LOC", "LOC": "PER"}
    made = []
    for place, row in enumerate(stories(800)):
        source = "scan" if place % 5 == 0 else None if place % 20 == 1 else "print"
        turned = source == "scan" and chance.random() < 0.3
        tags = [tag[:2] + other[tag[2:]] if turned and tag != "O" else tag for tag in row["tags"]]
        made.append(row | {"tags": tags, "source": source})
    return made


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Done:
    folder = tmp_path_factory.mktemp("tagging")
    write_jsonl(folder / ROWS, stories_of_sources())
    evaluation = {"gate": GATE, "groups": ("source",)}
    return through_all_steps(
        folder, tiny_model, TASK, training=TRAINING, evaluation=evaluation, **DATASET
    )


def test_the_tagger_finds_spans_that_words_and_their_neighbors_do_not_tell(done: Done) -> None:
    assert [result.passed for result in done.report.gate] == [True] * 4, done.report.gate
    assert done.report.labels == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
    assert [scores.label for scores in done.report.per_class] == sorted(KIND_OF_STORY.values())
    assert done.prepared.data.unread_words is not None
    assert done.prepared.data.unread_words.test == 0


def test_every_figure_follows_from_the_kept_predictions(done: Done) -> None:
    rows = done.predictions
    given = {row["id"]: row["tags"] for row in stories_of_sources()}

    assert all(row["tags"] == given[row["row_id"]] for row in rows)
    confirmed = recompute(done.model.parent)
    assert {metric.value for metric in done.report.metrics} <= confirmed
    assert {f"{one.name}_errorReduction" for one in done.report.baselines} <= confirmed
    assert {f"{one.label} f1" for one in done.report.per_class} <= confirmed
    names = [one.name for one in done.report.baselines]
    assert names == [Baseline.WORD_MAJORITY, Baseline.WORD_FEATURES]


def test_the_group_on_which_it_fails_is_found_by_its_spans_and_by_its_words(done: Done) -> None:
    sources = {row["id"]: row["source"] or "(missing)" for row in stories_of_sources()}
    assert all(row["groups.source"] == sources[row["row_id"]] for row in done.predictions)
    (column,) = done.report.groups
    missing, printed, scan = column.groups
    assert [one.group for one in column.groups] == ["(missing)", "print", "scan"]
    assert missing.insufficient == (Metric.MICRO_F1, Metric.TOKEN_ACCURACY)
    assert [one.metric for one in scan.contrasts] == [Metric.MICRO_F1, Metric.TOKEN_ACCURACY]
    assert all(one.found and one.shortfall.value > 0 for one in scan.contrasts)
    assert scan.figure.value == scan.contrasts[0].value < printed.figure.value
    assert done.report.gate[-1].group == "scan"
    confirmed = recompute(done.model.parent)
    assert {"source scan None", "source (missing) None"} <= confirmed
    assert {f"source scan ('{one.metric.value}', None)" for one in scan.contrasts} <= confirmed


def test_the_exported_tagger_tells_the_same_in_a_plain_pipeline(done: Done) -> None:
    rows = done.predictions[:8]
    tagger: Any = pipeline("token-classification", str(done.model), ignore_labels=[])
    told = tagger([row["words"] for row in rows], is_split_into_words=True)
    for row, answer in zip(rows, told, strict=True):
        # Every word of these rows is one token.
        assert [one["entity"] for one in answer] == row["predicted"]
        assert [one["score"] for one in answer] == pytest.approx(row["probabilities"], abs=1e-5)
    card = (done.model / "README.md").read_text()
    assert "is_split_into_words=True" in card
    assert "### By type" in card


def test_a_words_first_token_is_learned_and_no_other(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {"tokens": ["film", f"xyz{number}", "city"], "tags": ["O", "B-NAME", "I-NAME"]}
        for number in range(60)
    ]
    write_jsonl(tmp_path / ROWS, rows)
    report = prepared(tmp_path, tiny_model, TASK, TRAINING, train=ROWS)
    train = load_from_disk(str(tmp_path / "workspace" / LAYOUT.prepared / "train"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for row in train:
        tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
        tagged = [(t, report.labels[n]) for t, n in zip(tokens, row["tags"], strict=True) if n >= 0]
        assert tagged == [("film", "O"), ("x", "B-NAME"), ("city", "I-NAME")]
        assert row["weight"] == 3


def test_words_that_are_cut_are_counted_and_never_found(tmp_path: Path, tiny_model: Path) -> None:
    rows = [
        {"tokens": ["actor", f"{number}", *["the"] * 10, "city"], "tags": [
            "O", "B-NAME", *["O"] * 10, "B-NAME"]}
        for number in range(100)
    ]  # fmt: skip
    write_jsonl(tmp_path / ROWS, rows)
    training = TRAINING | {"max_steps": 40, "max_length": 8, "checkpoint_every_steps": 40}
    done = through_all_steps(
        tmp_path, tiny_model, TASK, training=training, evaluation={}, train=ROWS
    )
    unread, report = done.prepared.data.unread_words, done.report
    assert unread is not None
    # Of thirteen words, the last of which is a name, some six fit.
    assert unread.test > 6 * done.prepared.data.test_rows
    assert report.metrics[Metric.PRECISION].value == pytest.approx(1.0)
    assert report.metrics[Metric.RECALL].value == pytest.approx(0.5)
    for row in done.predictions:
        assert row["predicted"][len(row["words_read"]) :] == ["O"] * (13 - len(row["words_read"]))


@dataclasses.dataclass(frozen=True)
class Curve:
    train: list[float]
    select: list[float]


def trained(job: Job, attempt: int = 1) -> Curve:
    with pods(job, attempt) as gang:
        code, _ = gang[0].end()
    assert code == ExitCode.DONE, gang[0].log.read_text()
    curve = job.manifest(attempt, 8).state.curve
    return Curve(
        [one.loss for one in curve if one.loss is not None],
        [one.select_loss for one in curve if one.select_loss is not None],
    )


@pytest.fixture(scope="module")
def prepared_job(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Job:
    folder = tmp_path_factory.mktemp("tags") / "job"
    write_jsonl(folder / ROWS, stories(150))
    prepared(folder, tiny_model, TASK, FEW_STEPS, **DATASET)
    return Job(folder, FEW_STEPS, task=TASK)


def reference(job: Job) -> float:
    """The first step's loss, by a loop over words in plain torch."""
    model = load_model(
        job.folder / "claims/models/tiny-bert",
        MODEL,
        TAGS,
        ("B-LOC", "B-PER", "I-LOC", "I-PER", "O"),
        dropout=0.0,
        seed=42,
    ).model
    rows = load_from_disk(str(job.workspace / LAYOUT.prepared / "train"))
    plan = StepPlan(
        rows=len(rows), global_batch_size=32, micro_batch_size=32, accumulation_steps=1,
        world_size=1, seed=42,
    )  # fmt: skip
    nll, words = 0.0, 0
    for place in plan.global_batch(0).tolist():
        row = rows[place]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        for scores, tag in zip(logits, row["tags"], strict=True):
            if tag >= 0:
                nll += float(cross_entropy(scores, torch.tensor(tag)))
                words += 1
    return nll / words


def test_loss_is_that_of_all_words_of_the_batch_on_any_gang_and_after_a_stop(
    prepared_job: Job, tmp_path: Path
) -> None:
    curves = {}
    for ranks, micro in ((1, 16), (2, 4)):
        split = {"micro_batch_size": micro, "accumulation_steps": 32 // (micro * ranks)}
        job = dataclasses.replace(
            prepared_job.copied(tmp_path / f"{ranks}-{micro}"),
            training=FEW_STEPS | split,
            ranks=ranks,
        )
        curves[ranks, micro] = trained(job)
    first = curves[1, 16]
    assert first.train[0] == pytest.approx(reference(prepared_job), abs=1e-5)
    assert first.train[0] > first.train[-1]
    assert curves[2, 4].train == pytest.approx(first.train, abs=1e-4)
    assert curves[2, 4].select == pytest.approx(first.select, abs=1e-4)
    (job.workspace / LAYOUT.checkpoint(1, 8) / CHECKPOINT_MANIFEST).unlink()
    again = trained(job, attempt=2)
    assert again.train == pytest.approx(first.train, abs=1e-4)
    assert again.select == pytest.approx(first.select, abs=1e-4)


def test_numbers_are_tags_by_their_place_in_the_labels(tmp_path: Path, tiny_model: Path) -> None:
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    rows = [
        row | {"ner_tags": [names.index(tag) for tag in row["tags"]], "tags": None}
        for row in stories(150)
    ]
    write_jsonl(tmp_path / ROWS, rows)
    report = prepared(
        tmp_path,
        tiny_model,
        TASK,
        FEW_STEPS,
        train=ROWS,
        labels=names,
        columns={"id": "id", "tags": "ner_tags"},
    )
    assert report.labels == tuple(names)
    test = load_from_disk(str(tmp_path / "workspace" / LAYOUT.test))
    given = {row["id"]: row["ner_tags"] for row in rows}
    for row in test:
        assert row["word_tags"] == given[row["row_id"]]


def test_plain_tags_count_words_and_an_adapter_is_exported_as_it_was_scored(
    tmp_path: Path, tiny_model: Path
) -> None:
    kinds = {"O": "X", "B": "NOUN", "I": "NOUN"}
    rows = [row | {"tags": [kinds[tag[0]] for tag in row["tags"]]} for row in stories(150)]
    write_jsonl(tmp_path / ROWS, rows)
    done = through_all_steps(
        tmp_path,
        tiny_model,
        TASK,
        training=FEW_STEPS,
        evaluation={},
        lora={"rank": 4, "output": "adapter"},
        tagScheme="plain",
        **DATASET,
    )
    metrics = done.report.metrics
    assert metrics[Metric.MICRO_F1].value == pytest.approx(metrics[Metric.TOKEN_ACCURACY].value)
    assert Metric.MICRO_F1.value in recompute(done.model.parent)
    words = sum(len(row["tags"]) for row in done.predictions)
    assert sum(scores.support for scores in done.report.per_class) == words
    majority, _ = done.report.baselines
    assert majority.metrics[Metric.TOKEN_ACCURACY].value == 1.0
    assert done.report.model is not None, "it was proved in a plain pipeline"
    assert (done.model / "adapter_model.safetensors").is_file()
    assert done.prepared.model.trainable_parameters < done.prepared.model.parameters / 2


def test_conll_files_are_read_as_the_same_rows(tmp_path: Path, tiny_model: Path) -> None:
    rows = stories(150)
    write_jsonl(tmp_path / "a" / ROWS, rows)
    lines = ["-DOCSTART- -X- O O", ""]
    for row in rows:
        lines += [f"{word} NN {tag}" for word, tag in zip(row["tokens"], row["tags"], strict=True)]
        lines += ["", ""]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "rows.conll").write_text("\n".join(lines[:-2]))
    one = prepared(tmp_path / "a", tiny_model, TASK, FEW_STEPS, train=ROWS)
    other = prepared(tmp_path / "b", tiny_model, TASK, FEW_STEPS, train="rows.conll")
    assert one.data.split_digest == other.data.split_digest
    assert one.data.classes == other.data.classes


def test_a_type_whose_spans_are_hardly_ever_long_is_split_by_its_beginnings(
    tmp_path: Path, tiny_model: Path
) -> None:
    long = {"tokens": ["very", "old", "city"], "tags": ["O", "B-RARE", "I-RARE"]}
    rare = [
        {"tokens": [word, "old"], "tags": ["O", "B-RARE"]} for word in "the a this film is".split()
    ]
    rows = [{key: row[key] for key in ("tokens", "tags")} for row in stories(150)]
    write_jsonl(tmp_path / ROWS, [*rows, long, *rare])
    report = prepared(
        tmp_path, tiny_model, TASK, FEW_STEPS, train=ROWS, split={"strategy": "stratified"}
    )
    counts = {one.label: one for one in report.data.classes}
    assert min(counts["B-RARE"].train, counts["B-RARE"].select, counts["B-RARE"].test) > 0
    inside = counts["I-RARE"]
    assert inside.train + inside.select + inside.test == 1


@pytest.mark.parametrize("kind", [GPT2Tokenizer, PreTrainedTokenizerFast])
def test_a_byte_level_tokenizer_reads_a_word_alone_as_it_does_in_a_text_and_is_kept_so(
    tmp_path: Path, kind: type[PreTrainedTokenizerBase]
) -> None:
    made = gpt2_tokenizer()
    if kind is GPT2Tokenizer:
        merges = json.loads(made.backend_tokenizer.to_str())["model"]["merges"]
        pairs: Any = [tuple(pair) for pair in merges]
        made = GPT2Tokenizer(vocab=made.get_vocab(), merges=pairs)
    made.save_pretrained(tmp_path / "base")
    in_text = made(" red 7 blue", add_special_tokens=False)["input_ids"]
    alone = {"text": ["red", "7", "blue"], "is_split_into_words": True}
    assert made(**alone)["input_ids"] != in_text, "the trap is there"
    tokenizer = load_tokenizer(tmp_path / "base", "base", of_words=True)
    assert tokenizer(**alone)["input_ids"] == in_text
    tokenizer.save_pretrained(tmp_path / "export")
    assert AutoTokenizer.from_pretrained(tmp_path / "export")(**alone)["input_ids"] == in_text


def test_rows_of_another_kind_are_refused_by_name(tmp_path: Path, tiny_model: Path) -> None:
    def message(*rows: dict[str, Any], name: str = ROWS, **dataset: Any) -> str:
        write_jsonl(tmp_path / name, [*stories(60), *rows])
        with pytest.raises(DataError) as refused:
            prepared(tmp_path, tiny_model, TASK, FEW_STEPS, **{"train": name, **dataset})
        return str(refused.value)

    uneven = message({"tokens": ["a", "b"], "tags": ["O"]})
    assert uneven.startswith("rows.jsonl: line 61: 2 words in column 'tokens' and 1 tags")
    assert "line 61: tag 1: is not O, B-TYPE" in message({"tokens": ["a"], "tags": ["NOUN"]})
    assert "names 0 tags" in message({"tokens": ["a"], "tags": [3]})
    assert "holds text, not a list" in message({"tokens": "a b", "tags": ["O"]})
    assert "word 1 of column 'tokens' is a number" in message({"tokens": [1], "tags": ["O"]})
    (tmp_path / "bad.conll").write_text("a O\nb\n")
    with pytest.raises(DataError, match=r"bad.conll: line 2: a word without a tag"):
        prepared(tmp_path, tiny_model, TASK, FEW_STEPS, train="bad.conll")
    asked = {"groups": ("source",)}
    with pytest.raises(DataError, match=r"no other columns in format conll; .* evaluation.groups"):
        prepared(tmp_path, tiny_model, TASK, FEW_STEPS, evaluation=asked, train="bad.conll")


def test_tags_that_nothing_begins_are_mended_counted_and_named(
    tmp_path: Path, tiny_model: Path
) -> None:
    odd = {"id": "odd", "tokens": ["the", "funny", "war"], "tags": ["O", "I-PER", "I-PER"]}
    write_jsonl(tmp_path / ROWS, [*stories(150), odd])
    report = prepared(tmp_path, tiny_model, TASK, FEW_STEPS, **DATASET)
    (step,) = [one for one in report.data.cleaning if one.step.startswith("I- tags")]
    assert (step.rows, step.dropped, step.examples) == (1, False, ("odd",))
    iob1 = [
        row | {"tags": [tag.replace("B-", "I-") for tag in row["tags"]]} for row in stories(150)
    ]
    write_jsonl(tmp_path / ROWS, iob1)
    with pytest.raises(DataError, match=r"150 of 150 rows have I- tags .* set dataset.tagScheme"):
        prepared(tmp_path, tiny_model, TASK, FEW_STEPS, **DATASET)
    report = prepared(tmp_path, tiny_model, TASK, FEW_STEPS, tagScheme="iob1", **DATASET)
    assert report.labels == ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
