"""Compute the figures of an evaluation again from the predictions that it kept.

`python examples/recompute.py FOLDER` takes the `output` folder of a job's workspace, prints each
figure of the report beside what comes out here, and ends with 1 if any differs or is missing. It
shares no code with the trainer, and needs what its image has. For one task it takes some twenty
lines: read the one you need.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import spearmanr
from sklearn import metrics

Figures = dict[str, float]
# A JSON object, and arrays of whatever rows hold: neither has a type that says more.
Report = dict[str, Any]
SWAPPED = ("flipRate", "change", "excess")


def predictors(report: Report) -> list[str]:
    """How columns begin: the model's with nothing, each baseline's with its name."""
    return ["", *(f"{one['name']}_" for one in report["baselines"])]


def text_classification(rows: pd.DataFrame, report: Report) -> Figures:
    """One class for each row."""
    names, y = report["labels"], rows["label"].to_numpy()
    found: Figures = {}
    for who in predictors(report):
        told = rows[f"{who}predicted"].to_numpy()
        found |= {
            f"{who}accuracy": np.mean(y == told),
            f"{who}balancedAccuracy": np.mean([np.mean(told[y == one] == one) for one in set(y)]),
            f"{who}macroF1": metrics.f1_score(y, told, average="macro", zero_division=0),
            f"{who}mcc": metrics.matthews_corrcoef(y, told),
            f"{who}errors": np.sum(y != told),
        }
    per_class = metrics.precision_recall_fscore_support(
        y, rows["predicted"], labels=names, zero_division=0
    )
    for name, *values in zip(names, *per_class, strict=True):
        for kind, value in zip(("precision", "recall", "f1", "support"), values, strict=True):
            found[f"{name} {kind}"] = value
    number = np.array([names.index(one) for one in y])
    logits = np.log(np.stack(rows["probabilities"].to_numpy()))
    found |= reliability(logits, number)
    if "temperature" in report.get("calibration", {}):
        scaled = reliability(logits / report["calibration"]["temperature"], number)
        found |= {f"calibrated {name}": value for name, value in scaled.items()}
    told = rows["predicted"].to_numpy()
    found |= by_swap(rows, report, lambda p, q: np.abs(p - q).sum() / 2)
    right = {"accuracy": (y == told, np.ones(len(y)))}
    return found | by_group(rows, report, right, lambda one: (y == one, told == one))


image_classification = text_classification


def reliability(logits: np.ndarray, y: np.ndarray) -> Figures:
    """What follows from probabilities; `y` is the number of the true class."""
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    sure, right = p.max(axis=1), p.argmax(axis=1) == y
    edges = np.quantile(sure, np.arange(1, 15) / 15, method="inverted_cdf")
    gaps = pd.Series(sure - right).groupby(np.searchsorted(edges, sure)).sum()
    return {
        "loss": -np.log(p[np.arange(len(y)), y]).mean(),
        "brier": np.square(p - np.eye(p.shape[1])[y]).sum(axis=1).mean(),
        "expectedCalibrationError": gaps.abs().sum() / len(y),
    }


def multi_label_classification(rows: pd.DataFrame, report: Report) -> Figures:
    """All labels that a row has."""
    names = report["labels"]
    found: Figures = {}

    def flags(column: str) -> np.ndarray:
        return np.array([[name in row for name in names] for row in rows[column]])

    y, p = flags("labels"), np.stack(rows["probabilities"].to_numpy())
    for who in predictors(report):
        told = flags(f"{who}predicted")
        known = np.flatnonzero((y | told).any(axis=0))
        found |= {
            f"{who}microF1": metrics.f1_score(y, told, average="micro", zero_division=0),
            f"{who}macroF1": metrics.f1_score(
                y, told, average="macro", labels=known, zero_division=0
            ),
            f"{who}exactMatch": np.mean((y == told).all(axis=1)),
            f"{who}labelAccuracy": np.mean(y == told),
            f"{who}errors": np.sum(y != told),
        }
    told = flags("predicted")
    per_class = metrics.precision_recall_fscore_support(y, told, zero_division=0)
    for name, *values in zip(names, *per_class, strict=True):
        for kind, value in zip(("precision", "recall", "f1", "support"), values, strict=True):
            found[f"{name} {kind}"] = value
    found["loss"] = -np.log(np.where(y, p, 1 - p)).mean()
    found |= by_swap(rows, report, lambda p, q: np.abs(p - q).mean())
    place = names.index
    right = {"labelAccuracy": ((y == told).mean(axis=1), np.ones(len(y)))}
    return found | by_group(
        rows, report, right, lambda one: (y[:, place(one)], told[:, place(one)])
    )


def text_regression(rows: pd.DataFrame, report: Report) -> Figures:
    """A number for each row."""
    y = rows["label"].to_numpy()
    found: Figures = {}
    for who in predictors(report):
        told = rows[f"{who}predicted"].to_numpy()
        found |= {
            f"{who}rmse": np.sqrt(np.mean(np.square(told - y))),
            f"{who}mae": np.mean(np.abs(told - y)),
            f"{who}rSquared": metrics.r2_score(y, told),
            f"{who}spearman": spearmanr(y, told).statistic if np.ptp(told) else 0.0,
            f"{who}errors": np.square(told - y).sum(),
        }
    found |= by_swap(rows, report, None)
    errors = {"mae": (np.abs(rows["predicted"].to_numpy() - y), np.ones(len(y)))}
    return found | by_group(rows, report, errors)


def token_classification(rows: pd.DataFrame, report: Report) -> Figures:
    """A tag for each word."""
    of_spans = all(tag == "O" or tag[:2] in {"B-", "I-"} for tag in report["labels"])
    truth = [spans(tags, of_spans=of_spans) for tags in rows["tags"]]
    words = [list(tags) for tags in rows["tags"]]
    found: Figures = {}
    ratios: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for who in predictors(report):
        told = [spans(tags, of_spans=of_spans) for tags in rows[f"{who}predicted"]]
        both = [one & other for one, other in zip(truth, told, strict=True)]
        there, said, right = (
            Counter(kind for row in side for *_, kind in row) for side in (truth, told, both)
        )
        kinds = sorted(there | said)
        f1 = {kind: 2 * right[kind] / (there[kind] + said[kind]) for kind in kinds}
        misses = [
            sum(tag != other for tag, other in zip(row, theirs, strict=True))
            for row, theirs in zip(words, rows[f"{who}predicted"], strict=True)
        ]
        wrong = sum(misses)
        found |= {
            f"{who}microF1": 2 * right.total() / max(1, there.total() + said.total()),
            f"{who}macroF1": float(np.mean(list(f1.values()))),
            f"{who}precision": right.total() / max(1, said.total()),
            f"{who}recall": right.total() / max(1, there.total()),
            f"{who}tokenAccuracy": 1 - wrong / sum(map(len, words)),
            f"{who}errors": wrong,
        }
        if not who:
            sizes, of_both = np.array([*map(len, words)]), np.array([*map(len, both)])
            of_either = np.array([*map(len, truth)]) + np.array([*map(len, told)])
            ratios = {
                "microF1": (2 * of_both, of_either),
                "tokenAccuracy": (sizes - np.array(misses), sizes),
            }
        for kind in kinds if not who else ():
            found |= {
                f"{kind} precision": right[kind] / max(1, said[kind]),
                f"{kind} recall": right[kind] / max(1, there[kind]),
                f"{kind} f1": f1[kind],
                f"{kind} support": there[kind],
            }
    found["loss"] = rows["nll"].sum() / rows["words_read"].map(len).sum()
    return found | by_group(rows, report, ratios)


def spans(tags: Sequence[str | None], *, of_spans: bool) -> set[tuple[int, int, str]]:
    """First word, the word after the last, and type; where tags mark no spans, each word is one."""
    if not of_spans:
        return {(place, place + 1, tag) for place, tag in enumerate(tags) if tag is not None}
    found: set[tuple[int, int, str]] = set()
    start, kind = 0, ""
    for place, tag in enumerate([*tags, "O"]):
        mark, _, own = (tag or "O").partition("-")
        if kind and (mark != "I" or own != kind):
            found.add((start, place, kind))
            kind = ""
        if own and not kind:
            start, kind = place, own
    return found


def causal_lm(rows: pd.DataFrame, report: Report) -> Figures:
    """Sums over the counted tokens of each row."""
    sums = rows.sum(numeric_only=True)
    found: Figures = {}
    for who in predictors(report):
        loss = sums[f"{who}nll"] / sums["tokens"]
        found |= {
            f"{who}loss": loss,
            f"{who}perplexity": np.exp(loss),
            f"{who}bitsPerByte": sums[f"{who}nll"] / np.log(2) / sums["bytes"],
            f"{who}tokenAccuracy": sums[f"{who}right"] / sums["tokens"],
            f"{who}errors": sums["tokens"] - sums[f"{who}right"],
        }
    tokens = rows["tokens"].to_numpy()
    of_tokens = {
        "tokenAccuracy": (rows["right"].to_numpy(), tokens),
        "loss": (rows["nll"].to_numpy(), tokens),
    }
    return found | by_group(rows, report, of_tokens)


def by_group(
    rows: pd.DataFrame,
    report: Report,
    ratios: dict[str, tuple[np.ndarray, np.ndarray]],
    of_class: Callable[[str], tuple[np.ndarray, np.ndarray]] | None = None,
) -> Figures:
    """Figures by group, each a sum over rows divided by one.

    The first of `ratios` is said of each group; `of_class` is what is so, and told so.
    """
    found: Figures = {}
    for column, group, one in contrasts(report):
        mine = (rows[f"groups.{column}"] == group).to_numpy()
        metric = next(iter(ratios)) if one is None else one["metric"]
        if metric in ratios:
            values, counted = ratios[metric]
        else:
            assert one is not None
            assert of_class is not None
            there, told = of_class(one["label"])
            rates = {"truePositiveRate": there, "falsePositiveRate": ~there}
            counted = rates.get(metric, np.full(len(rows), fill_value=True))
            values = told & counted
        sides = [values[side].sum() / max(1, counted[side].sum()) for side in (mine, ~mine)]
        found[f"{column} {group} {one and (one['metric'], one.get('label'))}"] = (
            sides[0] if one is None else sides[0] - sides[1]
        )
    return found


def by_swap(
    rows: pd.DataFrame, report: Report, far: Callable[[np.ndarray, np.ndarray], float] | None
) -> Figures:
    """Rows with a term beside their twins; `far` is the change of probabilities, if any."""
    found: Figures = {}
    for one in swaps(report):
        begin = f"swaps.{one['name']}_"
        held = rows[rows[f"{begin}predicted"].notna()]
        pairs = list(zip(held["predicted"], held[f"{begin}predicted"], strict=True))
        found[f"{begin}rows"] = len(held)
        if far is None:
            found[f"{begin}change"] = float(np.mean([abs(p - q) for p, q in pairs]))
            continue
        found[f"{begin}flipRate"] = float(np.mean([not np.array_equal(p, q) for p, q in pairs]))
        both = zip(held["probabilities"], held[f"{begin}probabilities"], strict=True)
        found[f"{begin}change"] = float(np.mean([far(p, q) for p, q in both]))
    first = "change" if far is None else "flipRate"
    for name in [one["name"] for one in swaps(report)]:
        control = found[f"swaps.neutral_{first}"]
        found[f"swaps.{name}_excess"] = found[f"swaps.{name}_{first}"] - control
    return found


def losses(folder: Path) -> Figures:
    """The scored checkpoint's loss on training and select rows."""
    sums = pq.read_table(folder / "losses.parquet").to_pandas().groupby("role").sum()
    mean = sums["loss"] / sums["weight"]
    return {
        "generalization trainLoss": mean["train"],
        "generalization selectLoss": mean["select"],
        "generalization gap": mean["select"] - mean["train"],
    }


def swaps(report: Report) -> list[Report]:
    """The swaps of terms, the control among them."""
    made = report.get("counterfactuals")
    return [made["neutral"], *made["swaps"]] if made else []


def contrasts(report: Report) -> Iterator[tuple[str, str, Report | None]]:
    """Each column's groups with what each is compared by, None for the group's own figure."""
    for column in report.get("groups", ()):
        for group in column["groups"]:
            for one in (None, *group.get("contrasts", ())):
                yield column["column"], group["group"], one


def reported(report: Report) -> Figures:
    """The figures of the report, by the names that they have above."""
    found = {name: one["value"] for name, one in report["metrics"].items()}
    for base in report["baselines"]:
        found |= {f"{base['name']}_{name}": one["value"] for name, one in base["metrics"].items()}
        if "errorReduction" in base:
            found[f"{base['name']}_errorReduction"] = base["errorReduction"]["value"]
    for one in report.get("perClass", ()):
        found |= {f"{one['label']} {kind}": one[kind] for kind in ("precision", "recall", "f1")}
        found[f"{one['label']} support"] = one["support"]
    for name, value in report.get("calibration", {}).get("after", {}).items():
        if name != "bins":
            found[f"calibrated {name}"] = value
    for name in ("trainLoss", "selectLoss", "gap"):
        found[f"generalization {name}"] = report["generalization"][name]["value"]
    for one in swaps(report):
        begin = f"swaps.{one['name']}_"
        found[f"{begin}rows"] = one["rows"]
        found |= {f"{begin}{kind}": one[kind]["value"] for kind in SWAPPED if kind in one}
    for column in report.get("groups", ()):
        for group in column["groups"]:
            found[f"{column['column']} {group['group']} None"] = group["figure"]["value"]
            for one in group.get("contrasts", ()):
                kind = (one["metric"], one.get("label"))
                found[f"{column['column']} {group['group']} {kind}"] = one["difference"]["value"]
    return found


def main(folder: Path) -> int:
    """Print each figure, as reported and as computed here; the exit status."""
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = pq.read_table(folder / "predictions.parquet").to_pandas()
    again = globals()[report["task"].replace("-", "_")](rows, report) | losses(folder)
    for name in [one["name"] for one in report["baselines"]]:
        if again[f"{name}_errors"]:
            again[f"{name}_errorReduction"] = 1 - again["errors"] / again[f"{name}_errors"]
    wrong = 0
    for name, value in reported(report).items():
        here = again.get(name, np.nan)
        same = bool(np.isclose(value, here, rtol=1e-6, atol=1e-9))
        wrong += not same
        print(f"{'ok' if same else 'DIFFERS':8}{name:50}{value:14.6f}{here:14.6f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
