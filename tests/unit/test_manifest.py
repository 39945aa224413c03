"""Manifests: read as kubectl reads them, refused with all problems at once, by field and line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.lora import Method
from finetune_api.notdone import not_done
from finetune_api.tasks import Task
from finetune_api.training import Precision
from finetune_operator.cli.documents import LIMIT_BYTES, LIMIT_DEPTH, read_documents
from finetune_operator.cli.manifest import Manifest, ManifestError, read_manifests
from finetune_operator.core.observed import Problem
from harness.objects import ABSENT, JOB, RATE_CARD, RULE_EXAMPLES, Object, RuleExample, changed
from harness.processes import REPOSITORY

READABLE = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneJob
metadata:
  name: reviews
  labels: {team: "research"}
spec:
  task: text-classification
  model:
    uri: pvc://models/minilm
  dataset:
    train: pvc://data/reviews.csv
    columns: {text: review, label: sentiment}
  training:
    learningRate: 3e-5
    epochs: 1
  budget:
    maxCost: "12.50"
"""
CARD = json.dumps(RATE_CARD)


def read(tmp_path: Path, *texts: str) -> Manifest:
    """Read manifests with these contents, named a.yaml, b.yaml and so on."""
    paths = []
    for name, text in zip("abcdef", texts, strict=False):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        paths.append(path)
    return read_manifests(paths)


def problems(tmp_path: Path, *texts: str) -> tuple[Problem, ...]:
    """Everything that is wrong with these manifests; sources are relative."""
    with pytest.raises(ManifestError) as refusal:
        read(tmp_path, *texts)
    return tuple(
        Problem(field=it.field, message=it.message, source=it.source.removeprefix(f"{tmp_path}/"))
        for it in refusal.value.problems
    )


def problem(tmp_path: Path, *texts: str) -> Problem:
    """The one thing that is wrong with these manifests."""
    (only,) = problems(tmp_path, *texts)
    return only


def test_a_job_is_read_with_its_defaults_and_where_it_stands(tmp_path: Path) -> None:
    manifest = read(tmp_path, READABLE)
    spec = manifest.job.spec
    assert spec.training.learning_rate == 3e-5
    assert spec.budget.max_cost == "12.50"
    assert spec.dataset.columns.label == "sentiment"
    assert spec.training.precision is Precision.AUTO
    assert manifest.job.metadata.labels == {"team": "research"}
    assert manifest.rate_cards == ()
    assert manifest.path == tmp_path / "a.yaml"


@pytest.mark.parametrize(
    "texts",
    [
        (READABLE, CARD),
        (CARD, READABLE),
        (f"{READABLE}---\n{CARD}",),
        (f"---\n# nothing\n---\n{CARD}\n---\n{READABLE}...\n",),
    ],
)
def test_documents_may_stand_in_any_files_and_order(tmp_path: Path, texts: tuple[str, ...]) -> None:
    manifest = read(tmp_path, *texts)
    assert manifest.job.metadata.name == "reviews"
    assert [card.metadata.name for card in manifest.rate_cards] == ["prices"]
    assert READABLE in manifest.path.read_text()


def test_no_word_for_what_is_missing_is_a_word_of_the_contract() -> None:
    words = {*(task.value for task in Task), *(method.value for method in Method)}
    assert [word for word in words if not_done(word)] == []


def test_the_examples_of_the_repository_hold() -> None:
    jobs = sorted((REPOSITORY / "examples").rglob("job.yaml"))
    assert jobs
    for job in jobs:
        cards = sorted(job.parent.glob("ratecard*.yaml"))
        read_manifests([job, *cards])


def test_every_problem_of_every_file_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    bad_job = READABLE.replace("epochs: 1", "epochs: -1\n    learning_rate: 1")
    bad_job = bad_job.replace("label: sentiment", "label: 5").replace("pvc://models", "s3://models")
    bad_card = 'kind: RateCard\napiVersion: finetune.dev/v1alpha1\nmetadata: {name: "x"}\n'
    found = problems(tmp_path, bad_job, bad_card, "a: [")
    assert [(it.source, it.field) for it in found] == [
        ("a.yaml:9", "spec.model.uri"),
        ("a.yaml:12", "spec.dataset.columns.label"),
        ("a.yaml:15", "spec.training.epochs"),
        ("a.yaml:16", "spec.training.learning_rate"),
        ("b.yaml:1", "spec"),
        ("c.yaml:1", ""),
    ]


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (
            {"spec.training.learning_rate": 1e-4},
            "spec.training.learning_rate",
            "is no field of training; did you mean learningRate?",
        ),
        (
            {"spec.task": "seq2seq"},
            "spec.task",
            (
                "must be text-classification or multi-label-classification or text-regression or "
                "token-classification or causal-lm or image-classification, is 'seq2seq': tuning "
                "of encoder-decoders (sequence to sequence) is not done; instead, task causal-lm "
                "with dataset.columns.prompt and completion teaches a decoder such pairs"
            ),
        ),
        (
            {"spec.model.method": "QLoRA"},
            "spec.model.method",
            (
                "must be full or lora, is 'QLoRA': tuning on quantized weights (QLoRA) is not done"
                "; instead, model.method lora keeps the base model's weights as they are, and "
                "deepspeed.zeroStage 3 with offload spreads them"
            ),
        ),
        (
            {"spec.model.load_in_4bit": True},
            "spec.model.load_in_4bit",
            (
                "is no field of model: tuning on quantized weights (QLoRA) is not done; instead, "
                "model.method lora keeps the base model's weights as they are, and "
                "deepspeed.zeroStage 3 with offload spreads them"
            ),
        ),
        (
            {"spec.training.method": "dpo"},
            "spec.training.method",
            (
                "is no field of training: learning from preferences is not done; instead, task "
                "causal-lm on the preferred answers is supervised fine-tuning"
            ),
        ),
        (
            {"spec.trainig": {}},
            "spec.trainig",
            "is no field of spec; did you mean training?",
        ),
        (
            {"spec.dataset.zzz": 1},
            "spec.dataset.zzz",
            (
                "is no field of dataset; there are: cleaning, columns, format, labels, limit, "
                "maxDroppedPercent, split, tagScheme, test, train"
            ),
        ),
        ({"sepc": {}}, "sepc", "is no field of the manifest; did you mean spec?"),
        (
            {"metadata.nmae": "x"},
            "metadata.nmae",
            "is no field of metadata; did you mean name?",
        ),
        (
            {"spec.dataset.train": ABSENT},
            "spec.dataset.train",
            (
                "is required: pvc://CLAIM/PATH, https://…, s3://…, gs://…, "
                "hf://datasets/OWNER/NAME@COMMIT/FILE; in a local run also a path."
            ),
        ),
        (
            {"spec.dataset.train": None},
            "spec.dataset.train",
            (
                "is required: pvc://CLAIM/PATH, https://…, s3://…, gs://…, "
                "hf://datasets/OWNER/NAME@COMMIT/FILE; in a local run also a path."
            ),
        ),
        (
            {"spec.training.seed": "7"},
            "spec.training.seed",
            "must be an integer, is a string: take the quotes away",
        ),
        ({"spec.training.seed": 1.5}, "spec.training.seed", "must be an integer, is 1.5"),
        (
            {"spec.training.seed": 2**40},
            "spec.training.seed",
            "must be at least 0 and at most 2,147,483,647, is 1.09951e+12",
        ),
        (
            {"spec.training.epochs": 0},
            "spec.training.epochs",
            "must be more than 0 and at most 1,000, is 0",
        ),
        (
            {"spec.training.dropout": 1},
            "spec.training.dropout",
            "must be at least 0 and less than 1, is 1",
        ),
        (
            {"spec.training.epochs": True},
            "spec.training.epochs",
            "must be a number, is a boolean",
        ),
        (
            {"spec.suspend": "yes"},
            "spec.suspend",
            "must be true or false, is a string",
        ),
        (
            {"spec.dataset.columns.text": True},
            "spec.dataset.columns.text",
            (
                "must be a string, is a boolean; YAML takes yes, no, on, off, y and n for "
                "booleans: put it in quotes"
            ),
        ),
        (
            {"spec.budget.maxCost": 5},
            "spec.budget.maxCost",
            "must be a string, is a number: put it in quotes",
        ),
        (
            {"spec.budget.maxCost": "5 EUR"},
            "spec.budget.maxCost",
            'must be a decimal number in quotes, such as "12.50"',
        ),
        (
            {"spec.budget.currency": "usd"},
            "spec.budget.currency",
            "must be three capital letters, such as USD",
        ),
        (
            {"spec.training.scheduler": "cosin"},
            "spec.training.scheduler",
            "must be linear or cosine or constant, is 'cosin'; did you mean cosine?",
        ),
        (
            {"spec.training.scheduler": 1},
            "spec.training.scheduler",
            "must be linear or cosine or constant (a string)",
        ),
        ({"spec.training": []}, "spec.training", "must be a map of fields, is a list"),
        (
            {"spec.dataset.labels": "a,b"},
            "spec.dataset.labels",
            "must be a list, is a string",
        ),
        (
            {"spec.dataset.labels": ["a", ""]},
            "spec.dataset.labels[1]",
            "must have 1 to 253 characters, has 0",
        ),
        (
            {"spec.dataset.cleaning.dropLabels": ["x"] * 51},
            "spec.dataset.cleaning.dropLabels",
            "must have 0 to 50 items, has 51",
        ),
        (
            {"metadata.labels": {"team": "a b"}},
            "metadata.labels.team",
            "must be of the form ^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
        ),
        ({"metadata.name": 5}, "metadata.name", "must be a string, is a number: put it in quotes"),
        ({"metadata.name": ABSENT}, "metadata.name", "is required"),
        ({"spec.dataset.labels": [None]}, "spec.dataset.labels[0]", "must be a string, is null"),
    ],
)
def test_a_wrong_field_is_named_with_what_may_stand_there(
    tmp_path: Path, change: dict[str, Any], field: str, message: str
) -> None:
    found = problem(tmp_path, json.dumps(changed(JOB, change)))
    assert (found.field, found.message) == (field, message)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spec.entries.0.effectiveFrom": "2026-02-30T00:00:00Z"}, "spec.entries[0].effectiveFrom"),
        ({"spec.entries.0.effectiveFrom": "2026-02-28"}, "spec.entries[0].effectiveFrom"),
        ({"spec.entries.0.pricePerHour": "-1"}, "spec.entries[0].pricePerHour"),
        ({"spec.entries": []}, "spec.entries"),
        ({"status": {}}, "status"),
    ],
)
def test_a_wrong_rate_card_is_refused(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    found = problem(tmp_path, READABLE, json.dumps(changed(RATE_CARD, change)))
    assert found.field == field


def test_what_a_person_wrote_is_not_repeated_where_it_may_be_a_secret(tmp_path: Path) -> None:
    secret = "https://user:hunter2@host/data.csv"
    job = changed(JOB, {"spec.budget.maxCost": secret, "spec.model.uri": secret})
    job = changed(job, {"spec.dataset.train": [secret], "spec.task": secret * 2})
    told = " ".join(str(it) for it in problems(tmp_path, json.dumps(job)))
    assert "hunter2" not in told


STANDALONE = [example for example in RULE_EXAMPLES if example.before is None]


@pytest.mark.parametrize(
    "example",
    [it for it in STANDALONE if it.accepted["kind"] != "UsageRecord"],
    ids=lambda it: it.rule,
)
def test_the_rules_of_the_api_server_hold_on_a_laptop(tmp_path: Path, example: RuleExample) -> None:
    beside = (READABLE,) if example.accepted["kind"] == "RateCard" else ()
    read(tmp_path, json.dumps(example.accepted), *beside)
    found = problem(tmp_path, json.dumps(example.rejected), *beside)
    assert found.message.startswith(example.rule)


def test_a_rule_is_not_asked_about_a_field_that_is_wrong_already(tmp_path: Path) -> None:
    wrong = changed(JOB, {"spec.training.globalBatchSize": -3, "spec.compute.workers": 2})
    assert problem(tmp_path, json.dumps(wrong)).field == "spec.training.globalBatchSize"
    apart = changed(wrong, {"spec.dataset.split": {"select": 50, "test": 50}})
    assert [it.field for it in problems(tmp_path, json.dumps(apart))] == [
        "spec.training.globalBatchSize",
        "spec.dataset.split.select",
    ]


def test_a_list_keyed_by_name_holds_each_name_once(tmp_path: Path) -> None:
    gate = [{"name": "good", "metric": "mcc", "min": 0}] * 2
    found = problem(tmp_path, json.dumps(changed(JOB, {"spec.evaluation.gate": gate})))
    assert found.field == "spec.evaluation.gate[1]"
    assert found.message == "item 0 has name 'good' already; each may stand once"


def test_a_manifest_read_back_from_a_cluster_holds(tmp_path: Path) -> None:
    exported = changed(
        JOB,
        {
            "metadata.uid": "abc",
            "metadata.resourceVersion": "12",
            "metadata.creationTimestamp": "2026-03-02T08:00:00Z",
            "metadata.managedFields": [{"manager": "kubectl"}],
            "status": {"phase": "Complete"},
        },
    )
    job = read(tmp_path, json.dumps(exported)).job
    assert job.status is None
    assert job.metadata.uid == ""


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("",), "no FineTuneJob in there; add one"),
        ((CARD,), "no FineTuneJob in there; add one"),
        ((READABLE, READABLE), "a second FineTuneJob, beside that of"),
        ((READABLE, CARD, CARD), "the rate card prices stands in"),
        (("- a\n- b\n",), "is no object: it must have apiVersion, kind, …"),
        (("just words",), "is no object: it must have apiVersion, kind, …"),
        ((READABLE.replace("kind: FineTuneJob", "kind: FinetuneJob"),), "did you mean FineTuneJob"),
        ((READABLE.replace("kind: FineTuneJob\n", ""),), "is missing: write FineTuneJob"),
        ((READABLE.replace("v1alpha1", "v1"),), "must be finetune.dev/v1alpha1"),
        (
            (READABLE.replace("apiVersion: finetune.dev/v1alpha1\n", ""),),
            "is missing: write finetune.dev/v1alpha1",
        ),
        ((READABLE + "  budget: {}\n",), "stands here and in line 16; keep one"),
        ((READABLE + "\tx: 1\n",), "is no YAML"),
        ((READABLE + "  note: *gone\n",), "is no YAML: found undefined alias 'gone'"),
        (
            (READABLE.replace("sentiment", "!!python/name:os.system x"),),
            "the tag !!python/name:os.sys",
        ),
        ((READABLE.replace("epochs: 1", "epochs: .nan"),), ".nan is no number that JSON has"),
        ((READABLE.replace("reviews\n", "re\x07views\n"),), "U+0007 has no place in YAML"),
        ((READABLE.replace("sentiment", '"\\ud800"'),), "holds half of a character"),
        ((READABLE + "  ? [a]\n  : 1\n",), "a field's name must be a word"),
        (("[" * (LIMIT_DEPTH + 1),), f"nested more than {LIMIT_DEPTH} deep"),
        (("[" * 10_000,), f"nested more than {LIMIT_DEPTH} deep"),
        (("a: &a [*a]",), "anchors repeat too much"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(
    tmp_path: Path, texts: tuple[str, ...], message: str
) -> None:
    assert message in str(problem(tmp_path, *texts))


def test_a_bomb_of_anchors_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "anchors repeat too much" in str(problem(tmp_path, "\n".join(lines)))


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    huge, latin = tmp_path / "huge.yaml", tmp_path / "latin.yaml"
    huge.write_bytes(b"#" * (LIMIT_BYTES + 1))
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(ManifestError) as refusal:
        read_manifests([tmp_path / "none.yaml", tmp_path, huge, latin])
    assert [str(it) for it in refusal.value.problems] == [
        f"{tmp_path}/none.yaml: no such file",
        f"{tmp_path}: is a folder; name the manifests in it",
        f"{huge}: is larger than 1,048,576 bytes, the most that a manifest may have",
        f"{latin}:2: byte 9 is not UTF-8; save the file as UTF-8",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-5", 3e-5),
        ("1e3", 1000),
        ("1.0", 1),
        (".5", 0.5),
        ("+.5", 0.5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("-0x1f", -31),
        ("017", 15),
        ("0o17", 15),
        ("08", 8),
        ("0b11", 3),
        ("1:30", "1:30"),
        ("1e400", "1e400"),
        ("0x", "0x"),
        ("_1", "_1"),
        ("=", "="),
        ("2026-11-23", "2026-11-23"),
        ("y", True),
        ("Yes", True),
        ("off", False),
        ("oN", "oN"),
        ('"no"', "no"),
        ("!!str 5", "5"),
        ("!!int 5", 5),
        ("~", None),
        ("", None),
        ("Null", None),
    ],
)
def test_a_plain_scalar_means_what_it_means_to_kubectl(
    tmp_path: Path, text: str, value: object
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"a: {text}\n")
    documents, found = read_documents(path)
    assert found == []
    assert documents[0].value == {"a": value}
    assert type(documents[0].value["a"]) is type(value)


def test_merges_and_anchors_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "base: &b {x: 1, z: 2}\nmore: {<<: *b,\n  z: 3}\nfirst: {<<: [{x: 5}, *b]}\nyes: *b\n1: z\n"
    )
    (document,), found = read_documents(path)
    assert found == []
    both = {"x": 1, "z": 2}
    assert document.value == {
        "base": both,
        "more": {"x": 1, "z": 3},
        "first": {"x": 5, "z": 2},
        "true": both,
        "1": "z",
    }
    assert document.source(("more", "x")) == f"{path}:1"
    assert document.source(("more", "z", "deeper")) == f"{path}:3"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(-1e20, 1e20).filter(lambda it: not it.is_integer())
    | st.text(st.characters(codec="utf-8", exclude_characters="\x7f", min_codepoint=32)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=20,
)


@given(value=st.dictionaries(st.text("xyz", min_size=1), JSON_VALUES, min_size=1))
def test_json_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, value: Object
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(value))
    (document,), found = read_documents(path)
    assert found == []
    assert document.value == value


@given(junk=st.binary(max_size=300))
def test_no_bytes_at_all_end_in_anything_but_problems(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("junk") / "a.yaml"
    path.write_bytes(junk)
    with pytest.raises(ManifestError) as refusal:
        read_manifests([path])
    assert all(it.message for it in refusal.value.problems)


YAML_TEXT = st.text("ab01 \n\t:-[]{},&*!|>'\"#?<%@`~.ex", max_size=60)


@given(text=YAML_TEXT)
def test_no_yaml_at_all_ends_in_anything_but_problems(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.yaml"
    path.write_text(f"{READABLE}\n{text}")
    with contextlib.suppress(ManifestError):
        assert read_manifests([path]).job.metadata.name == "reviews"
