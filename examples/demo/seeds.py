"""Run the demo's job with five seeds and write docs/benchmarks-demo.md: all of them, and the pool.

A seed changes the new head, the order of the rows and the dropout; the split stays, so every seed
is tested on the same rows. Seeds that are done are not run again. Takes five times the demo's time.
"""

import argparse
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from finetune_api.times import parse_time

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEEDS = (1, 2, 3, 4, 5)
RESAMPLES = 10_000
TAIL = 2.5

Errors = NDArray[np.float64]
"""1 where a row is wrong, else 0."""


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, places: int = 3) -> str:
        """``0.845 [0.828, 0.861]``."""
        return f"{self.value:.{places}f} [{self.low:.{places}f}, {self.high:.{places}f}]"


@dataclass(frozen=True)
class SeedResult:
    """What one seed came to: its job's spec and status, and which test rows were wrong."""

    seed: int
    spec: dict[str, Any]
    status: dict[str, Any]
    row_ids: tuple[str, ...]
    model_errors: Errors
    baseline_errors: Errors


class SeedsError(Exception):
    """A seed did not come through, or its results don't fit the others'."""


def main() -> int:
    """Run what is missing and write the page; the exit status of the script."""
    parser = argparse.ArgumentParser(description="Run the demo with five seeds.")
    parser.add_argument("--workspace", type=Path, default=ROOT / ".demo" / "seeds")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks-demo.md")
    options = parser.parse_args()
    try:
        results = [run_seed(seed, options.workspace / str(seed)) for seed in SEEDS]
        options.page.write_text(page(results), encoding="utf-8")
    except SeedsError as error:
        print(f"seeds: {error}", file=sys.stderr)
        return 1
    print(f"seeds: {options.page} is written")
    return 0


def run_seed(seed: int, workspace: Path) -> SeedResult:
    """Take the demo's job with another seed to its end, or take up what is there.

    Raises SeedsError where it ends without an evaluation.
    """
    _call(sys.executable, HERE / "prepare.py", "--workspace", workspace)
    manifest = workspace / "job.yaml"
    text = (HERE / "job.yaml").read_text(encoding="utf-8")
    manifest.write_text(with_seed(text, seed), encoding="utf-8")
    status_file = workspace / "status.yaml"
    if "evaluation" not in read_job(status_file)["status"]:
        print(f"seeds: seed {seed}")
        finetune = Path(sys.executable).with_name("finetune")
        given = ("-f", manifest, "-f", HERE / "ratecard.yaml", "--workspace", workspace)
        _call(finetune, "run", *given)
    job = read_job(status_file)
    if "evaluation" not in job["status"]:
        raise SeedsError(f"seed {seed} ended without an evaluation: see {workspace}")
    (predictions,) = workspace.glob("*/output/predictions.parquet")
    rows = pq.read_table(predictions).to_pydict()
    label = np.array(rows["label"])
    return SeedResult(
        seed=seed,
        spec=job["spec"],
        status=job["status"],
        row_ids=tuple(rows["row_id"]),
        model_errors=(np.array(rows["predicted"]) != label).astype(float),
        baseline_errors=(np.array(rows["tfidf_predicted"]) != label).astype(float),
    )


def _call(*command: str | Path) -> None:
    """Run a program; whether it did its work shows in what it leaves behind."""
    subprocess.run([str(part) for part in command], check=False)


def with_seed(manifest: str, seed: int) -> str:
    """The manifest with another seed of the training; all else stays, comments too."""
    changed, count = re.subn(r"(?m)^(    seed: )\d+$", rf"\g<1>{seed}", manifest)
    if count != 1:
        raise SeedsError(f"job.yaml has {count} lines '    seed: N' where one is expected")
    return changed


def read_job(path: Path) -> dict[str, Any]:
    """The job that a workspace holds, with its status; both empty before the first run."""
    job: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {"spec": {}, "status": {}, **job}


def recipe(spec: dict[str, Any]) -> dict[str, Any]:
    """A job's spec but for the seed of its training: what all seeds have in common."""
    training = {key: value for key, value in spec["training"].items() if key != "seed"}
    return {**spec, "training": training}


def pooled(results: list[SeedResult], random: np.random.Generator) -> tuple[Interval, Interval]:
    """Accuracy and error reduction over all seeds, each with a percentile interval.

    A resample draws rows and seeds, both with replacement, so that the interval covers other test
    rows and other seeds alike; model and baseline are counted on the same draw. Raises SeedsError
    where the seeds were tested on different rows or are of different recipes.
    """
    if len({result.row_ids for result in results}) != 1:
        raise SeedsError("the seeds were tested on different rows: begin anew in an empty folder")
    if any(recipe(result.spec) != recipe(results[0].spec) for result in results):
        raise SeedsError("the seeds are of different recipes: begin anew in an empty folder")
    model = np.stack([result.model_errors for result in results])
    baseline = np.stack([result.baseline_errors for result in results])
    seeds, rows = model.shape
    accuracy, reduction = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        weights = np.bincount(random.integers(rows, size=rows), minlength=rows)
        drawn = random.integers(seeds, size=seeds)
        wrong = float((model @ weights)[drawn].sum())
        reference = float((baseline @ weights)[drawn].sum())
        accuracy[index] = 1 - wrong / (seeds * rows)
        reduction[index] = 1 - wrong / reference
    return (
        _interval(1 - float(model.mean()), accuracy),
        _interval(1 - float(model.sum() / baseline.sum()), reduction),
    )


def _interval(value: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(resampled, [TAIL, 100 - TAIL])
    return Interval(value, float(low), float(high))


def page(results: list[SeedResult]) -> str:
    """The Markdown of docs/benchmarks-demo.md."""
    accuracy, reduction = pooled(results, np.random.default_rng(0))
    lines = "\n".join(_line(result) for result in results)
    note = results[0].status["resolved"].get("note", "")
    rows = len(results[0].row_ids)
    head = textwrap.dedent(f"""\
        # The demo with five seeds

        Every seed that was run, in order; made by `examples/demo/seeds.py` from
        [the demo's manifest](../examples/demo/job.yaml), whose recipe was frozen before any test
        row was scored. A seed changes the new head, the order of the rows and the dropout; the
        split is the same, so all are tested on the same {rows:,} rows. {note}.

        | seed | accuracy | macro F1 | TF-IDF | error reduction | gate | time | rank-hours |
        | --- | --- | --- | --- | --- | --- | --- | --- |
        """)
    pool = f"""
Pooled: accuracy **{accuracy.text()}**, error reduction against the tuned TF-IDF baseline
**{reduction.text()}** (95 % intervals of {RESAMPLES:,} bootstrap resamples of rows and of seeds,
paired between model and baseline). Each line's own intervals are over rows alone. Times depend on
the machine and on what else it does.
"""
    return f"{head}{lines}\n{pool}"


def _line(result: SeedResult) -> str:
    status = result.status
    evaluation = status["evaluation"]
    metrics = evaluation["metrics"]
    tfidf = next(b for b in evaluation["baselines"] if b["name"] == "tfidf")
    cells = (
        str(result.seed),
        _shown(metrics["accuracy"]),
        _shown(metrics["macroF1"]),
        _shown(tfidf["metrics"]["accuracy"]),
        _shown(tfidf["errorReduction"]),
        "passed" if evaluation["passed"] else "failed",
        _minutes(status),
        f"{float(status['cost']['rankHours']):.3f}",
    )
    return f"| {' | '.join(cells)} |"


def _shown(value: dict[str, float]) -> str:
    return Interval(value["value"], value["low"], value["high"]).text()


def _minutes(status: dict[str, Any]) -> str:
    taken = parse_time(status["completionTime"]) - parse_time(status["startTime"])
    minutes, seconds = divmod(round(taken.total_seconds()), 60)
    return f"{minutes} min {seconds:02d} s"


if __name__ == "__main__":
    sys.exit(main())
