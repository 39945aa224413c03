"""Facts of a job for its page: the shape of a real run of the demo, resumed once after a kill."""

from typing import Any

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.job import FineTuneJob
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord
from finetune_operator.cli.page import PageFacts

UID = "8f14e45f-ceea-467f-9c15-3a1b2c4d5e6f"


def digest(character: str) -> str:
    """A digest that can be told from others."""
    return "sha256:" + character * 64


def a_job(status: JobStatus | None = None, **spec: Any) -> FineTuneJob:
    """The demo's manifest; keywords replace blocks of its spec."""
    base = {
        "task": "text-classification",
        "model": {"uri": "pvc://demo/model"},
        "dataset": {
            "train": "pvc://demo/reviews.csv",
            "labels": ["negative", "positive"],
            "cleaning": {"dropLabels": ["neutral"]},
        },
        "training": {"epochs": 1, "learningRate": 5e-5, "maxLength": 64},
        "compute": {"workers": 2},
        "evaluation": {"gate": [{"name": "accurate", "metric": "accuracy", "min": 0.8}]},
        "budget": {"maxCost": "0.50"},
    }
    return FineTuneJob(
        metadata={"name": "movie-reviews", "uid": UID},  # type: ignore[arg-type]  # read as JSON
        spec={**base, **spec},  # type: ignore[arg-type]
        status=status,
    )


def prepared() -> PrepareReport:
    """What the prepare step reports."""
    data = {
        "readRows": 10605,
        "keptRows": 10553,
        "trainRows": 7512,
        "selectRows": 857,
        "testRows": 2184,
        "cleaning": [
            {"step": "dropped label", "rows": 37, "dropped": True, "examples": ["17", "203"]},
            {"step": "no text", "rows": 0, "dropped": True},
            {"step": "markup", "rows": 4, "dropped": False, "examples": ["1", "2", "3", "4"]},
            {"step": "exact duplicates", "rows": 15, "dropped": True, "examples": ["88"]},
            {
                "step": "near duplicates, kept",
                "rows": 9,
                "dropped": False,
                "unchanged": True,
                "examples": ["512"],
            },
            {
                "step": "in another language than most",
                "rows": 1,
                "dropped": False,
                "unchanged": True,
                "examples": ["77"],
            },
        ],
        "classes": [
            {"label": "negative", "train": 3801, "select": 424, "test": 1091},
            {"label": "positive", "train": 3711, "select": 433, "test": 1093},
        ],
        "groups": [
            {"column": "source", "group": "press", "train": 7000, "select": 800, "test": 2000},
            {"column": "source", "group": "readers", "train": 512, "select": 57, "test": 184},
        ],
        "languages": [
            {"language": "en", "train": 6702, "select": 761, "test": 1950},
            {"language": "und", "train": 809, "select": 96, "test": 234},
            {"language": "fr", "train": 1, "select": 0, "test": 0},
        ],
        "texts": {
            "words": 158120,
            "distinctWords": 14907,
            "lexicalDiversity": 0.8725,
            "effectiveRows": 7498.6,
        },
        "tokens": {
            "sum": 199817,
            "min": 3,
            "max": 71,
            "mean": 26.6,
            "median": 25,
            "p95": 48,
            "truncatedRows": 3,
            "truncatedExamples": ["4411", "5120", "9006"],
        },
        "dataDigest": digest("a"),
        "splitDigest": digest("b"),
    }
    model = {
        "architecture": "BertModel",
        "modelType": "bert",
        "parameters": 22713986,
        "trainableParameters": 22713986,
        "layers": 6,
        "hiddenSize": 384,
        "intermediateSize": 1536,
        "attentionHeads": 12,
        "vocabulary": 30522,
        "maxPositions": 512,
        "classes": 2,
    }
    baselines = [
        {"name": "majority", "settings": {}, "crossValidated": 0.506},
        {
            "name": "tfidf",
            "settings": {"C": "4", "ngrams": "1-2", "analyzer": "word"},
            "crossValidated": 0.791,
            "select": 0.788,
        },
    ]
    return PrepareReport.model_validate(
        {"data": data, "model": model, "labels": ["negative", "positive"], "baselines": baselines}
    )


def an_interval(value: float, low: float, high: float) -> dict[str, float]:
    """A value with its bounds, as JSON."""
    return {"value": value, "low": low, "high": high}


def a_shortfall(**changes: Any) -> dict[str, Any]:
    """A requirement on groups that does not hold, with these fields in place of its own."""
    return {
        "name": "fair",
        "metric": "accuracy",
        "bound": "Point",
        "required": 0.05,
        "measured": 0.081,
        "passed": False,
        "column": "domain",
        "group": "tweets",
        "shortfall": an_interval(0.081, 0.051, 0.111),
        **changes,
    }


def evaluated(**changes: Any) -> EvaluationReport:
    """What the evaluate step reports; keywords replace parts of it."""
    base = {
        "inputsDigest": digest("c"),
        "task": "text-classification",
        "testRows": 2184,
        "checkpointStep": 180,
        "splitDigest": digest("b"),
        "labels": ["negative", "positive"],
        "metrics": {
            "accuracy": an_interval(0.8448, 0.8283, 0.8608),
            "balancedAccuracy": an_interval(0.8447, 0.8281, 0.8606),
            "macroF1": an_interval(0.8446, 0.8280, 0.8607),
            "mcc": an_interval(0.6901, 0.6571, 0.7221),
            "loss": {"value": 0.3662},
            "expectedCalibrationError": {"value": 0.0218},
            "brier": {"value": 0.2254},
        },
        "perClass": [
            {"label": "negative", "precision": 0.8286, "recall": 0.8689, "f1": 0.8483}
            | {"support": 1091},
            {"label": "positive", "precision": 0.8625, "recall": 0.8207, "f1": 0.8411}
            | {"support": 1093},
        ],
        "confusionMatrix": [[948, 143], [196, 897]],
        "baselines": [
            {
                "name": "majority",
                "metrics": {
                    "accuracy": an_interval(0.4995, 0.4785, 0.5206),
                    "macroF1": an_interval(0.3331, 0.3236, 0.3424),
                },
                "errorReduction": an_interval(0.6899, 0.6530, 0.7260),
            },
            {
                "name": "tfidf",
                "metrics": {
                    "accuracy": an_interval(0.7985, 0.7816, 0.8150),
                    "macroF1": an_interval(0.7984, 0.7815, 0.8150),
                },
                "errorReduction": an_interval(0.2299, 0.1432, 0.3156),
            },
        ],
        "gate": [
            a_gate_result("accurate", 0.8, 0.8448),
            a_gate_result("better-than-tfidf", 0.0, 0.1432, against="tfidf", bound="Lower"),
        ],
        "passed": True,
        "resamples": 2000,
        "predictions": {"path": "output/predictions.parquet", "digest": digest("d")},
        "model": {"path": "output/model", "digest": digest("e")},
    }
    return EvaluationReport.model_validate({**base, **changes})


def a_group(name: str, rows: int, *contrasts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """One group of test rows, as JSON."""
    accuracy = contrasts[0]["value"] if contrasts else 0.7
    return {
        "group": name,
        "rows": rows,
        "figure": an_interval(accuracy, accuracy - 0.02, accuracy + 0.02),
        "contrasts": list(contrasts),
        **more,
    }


def a_contrast(
    metric: str, value: float, rest: float, *, found: bool = False, label: str | None = None
) -> dict[str, Any]:
    """A figure of a group against the rest, as JSON."""
    difference = round(value - rest, 4)
    return {
        "metric": metric,
        "label": label,
        "value": value,
        "rest": rest,
        "difference": an_interval(
            difference, round(difference - 0.03, 4), round(difference + 0.03, 4)
        ),
        "pValue": 0.003 if found else 0.4,
        "found": found,
    }


def groups(*, found: bool = True) -> list[dict[str, Any]]:
    """What the report says of the groups that a column makes, as JSON."""
    tweets = a_group(
        "tweets",
        380,
        a_contrast("accuracy", 0.781, 0.862, found=found),
        a_contrast("selectionRate", 0.662, 0.471, found=found, label="positive"),
        a_contrast("truePositiveRate", 0.871, 0.858, label="positive"),
        a_contrast("falsePositiveRate", 0.281, 0.131, found=found, label="positive"),
        amplification={"label": "positive", "difference": an_interval(0.04, 0.01, 0.07)},
    )
    editorials = a_group(
        "editorials",
        1204,
        a_contrast("accuracy", 0.868, 0.841),
        a_contrast("selectionRate", 0.49, 0.5, label="positive"),
        a_contrast("truePositiveRate", 0.86, 0.86, label="positive"),
        a_contrast("falsePositiveRate", 0.13, 0.17, found=found, label="positive"),
        amplification={"label": "positive", "difference": an_interval(-0.01, -0.04, 0.02)},
    )
    metrics = ["accuracy", "selectionRate", "truePositiveRate", "falsePositiveRate"]
    letters = a_group("letters", 12, insufficient=metrics)
    return [{"column": "domain", "groups": [editorials, letters, tweets]}]


def calibration(*, temperature: float | None = 1.62) -> dict[str, Any]:
    """What the report says of a model that is too sure, as JSON."""

    def reliability(by: float) -> dict[str, Any]:
        places = [0.53 + 0.033 * place for place in range(15)]
        return {
            "loss": 0.3662 - by,
            "expectedCalibrationError": 0.0518 - by,
            "brier": 0.2254 - by,
            "bins": [
                {"confidence": sure, "accuracy": 0.5 + (sure - 0.5) * (0.85 + by), "rows": 145}
                for sure in places
            ],
        }

    after = None if temperature is None else reliability(0.04)
    return {
        "before": reliability(0),
        "temperature": temperature,
        "after": after,
        "selectRows": 857,
    }


def evaluated_numbers() -> EvaluationReport:
    """What the evaluate step reports of a regressor."""
    return evaluated(
        task="text-regression",
        labels=["value"],
        metrics={
            "rmse": an_interval(12.5, 11.0, 14.0),
            "mae": an_interval(9.5, 9.0, 10.0),
            "rSquared": an_interval(0.75, 0.7, 0.8),
            "spearman": an_interval(0.85, 0.8, 0.9),
        },
        perClass=[],
        confusionMatrix=[],
        baselines=[
            {
                "name": "mean",
                "metrics": {
                    "rmse": an_interval(25, 23, 27),
                    "spearman": an_interval(0, 0, 0),
                },
                "errorReduction": an_interval(0.75, 0.7, 0.8),
            },
            {
                "name": "tfidf",
                "metrics": {
                    "rmse": an_interval(20, 18, 22),
                    "spearman": an_interval(0.5, 0.4, 0.6),
                },
                "errorReduction": an_interval(0.61, 0.5, 0.7),
            },
        ],
        gate=[
            {
                "name": "close",
                "metric": "rmse",
                "bound": "Upper",
                "required": 13,
                "measured": 14.0,
                "passed": False,
            }
        ],
        passed=False,
    )


def a_gate_result(
    name: str,
    required: float,
    measured: float | None,
    *,
    against: str | None = None,
    bound: str = "Point",
) -> dict[str, Any]:
    """One requirement and how it went, as JSON."""
    return {
        "name": name,
        "metric": "accuracy" if against is None else "errorReduction",
        "against": against,
        "bound": bound,
        "required": required,
        "measured": measured,
        "passed": measured is not None and measured >= required,
    }


_RATE = {"card": "example", "entry": "local", "pricePerHour": "0.40", "currency": "USD"}
_Row = tuple[str, str, str, str, int | None, int, int, str, dict[str, int]]
_RESUMED = {"resumedFromStep": 120, "resumedFromAttempt": 2, "lastStep": 235, "checkpointStep": 235}
_KILLED = {"lastStep": 149, "checkpointStep": 120}
_ATTEMPTS: tuple[_Row, ...] = (
    # step, begin, end, reason, rank, seconds of devices, lost ones, cost, marks
    ("prepare", "10:00:00", "10:00:41", "Completed", None, 41, 0, "0.004556", {}),
    ("train", "10:00:42", "10:02:58", "NodeFault", 1, 272, 58, "0.030222", _KILLED),
    ("train", "10:03:00", "10:05:14", "Completed", None, 268, 0, "0.029778", _RESUMED),
    ("evaluate", "10:05:15", "10:05:46", "Completed", None, 31, 0, "0.003444", {}),
)


def attempt_rows() -> list[dict[str, Any]]:
    """The attempts as the status has them, as JSON."""
    rows = []
    for number, row in enumerate(_ATTEMPTS, start=1):
        step, begin, end, reason, rank, used, lost, _, marks = row
        rows.append(
            {
                "number": number,
                "step": step,
                "state": "Ended",
                "startTime": f"2026-11-23T{begin}Z",
                "endTime": f"2026-11-23T{end}Z",
                "reason": reason,
                "message": "" if reason == "Completed" else "Rank 1 was killed (signal 9).",
                "rank": rank,
                "node": "this-machine",
                "marks": marks,
                "deviceSeconds": used,
                "lostDeviceSeconds": lost,
            }
        )
    return rows


def records() -> tuple[UsageRecord, ...]:
    """A sealed record for each attempt."""
    return tuple(
        UsageRecord.model_validate(
            {
                "metadata": {"name": f"{UID}-{number}"},
                "spec": {
                    "job": {"namespace": "default", "name": "movie-reviews", "uid": UID},
                    "step": row[0],
                    "attempt": number,
                    "entries": [
                        {
                            "podUid": f"pod-{number}",
                            "worker": 0,
                            "node": "this-machine",
                            "device": "cpu",
                            "milliDevices": 1000,
                            "since": f"2026-11-23T{row[1]}Z",
                            "until": f"2026-11-23T{row[2]}Z",
                            "rate": _RATE,
                        }
                    ],
                    "sealed": True,
                    "lostSettled": True,
                    "cost": row[7],
                },
            }
        )
        for number, row in enumerate(_ATTEMPTS, start=1)
    )


def curve() -> list[dict[str, Any]]:
    """Points of a loss curve, as JSON."""
    train = [0.694, 0.683, 0.651, 0.588, 0.523, 0.481, 0.462, 0.447, 0.431, 0.425, 0.418, 0.402]
    train += [0.411, 0.396, 0.389, 0.401, 0.383, 0.379, 0.386, 0.371, 0.377, 0.365, 0.372, 0.368]
    points: list[dict[str, Any]] = [
        {"step": 1 + round(234 * i / 23), "loss": loss} for i, loss in enumerate(train)
    ]
    select = ((59, 0.4954), (118, 0.4019), (180, 0.3801), (235, 0.3814))
    return sorted(
        [*points, *({"step": step, "selectLoss": loss} for step, loss in select)],
        key=lambda point: point["step"],
    )


def cost(**changes: Any) -> dict[str, Any]:
    """The money of the whole job, as JSON."""
    shares = (
        ("init", "61.200000", "0.006800"),
        ("productive", "466.500000", "0.051833"),
        ("checkpoint", "17.900000", "0.001989"),
        ("lost", "58.000000", "0.006444"),
        ("teardown", "8.400000", "0.000933"),
    )
    base = {
        "currency": "USD",
        "spent": "0.068000",
        "projected": "0.068000",
        "wasted": "0.006444",
        "gpuHours": "0.000000",
        "rankHours": "0.170000",
        "unpricedHours": "0.000000",
        "display": "0.07 USD",
        "classes": [{"name": n, "deviceSeconds": s, "cost": c} for n, s, c in shares],
    }
    return {**base, **changes}


def a_status(**changes: Any) -> JobStatus:
    """The status of the finished job; keywords replace parts of it."""
    base = {
        "phase": "Complete",
        "reason": "Exported",
        "message": "The model is exported.",
        "attempt": len(_ATTEMPTS),
        "attempts": attempt_rows(),
        "startTime": "2026-11-23T10:00:00Z",
        "completionTime": "2026-11-23T10:05:46Z",
        "resolved": {
            "contractVersion": 1,
            "specDigest": digest("f"),
            "workers": 2,
            "ranksPerWorker": 1,
            "device": "cpu",
            "microBatchSize": 16,
            "accumulationSteps": 1,
            "learningRate": 5e-5,
            "epochs": 1.0,
            "precision": "fp32",
            "note": "2 workers × 1 GPU became 2 ranks on the CPU, at the same global batch of 32.",
        },
        "progress": {"step": 235, "totalSteps": 235, "percent": "100 %", "curve": curve()},
        "cost": cost(),
    }
    return JobStatus.model_validate({**base, **changes})


def complete(**changes: Any) -> PageFacts:
    """Facts of the finished job; keywords replace parts of its status."""
    return PageFacts(
        job=a_job(a_status(**changes)),
        records=records(),
        prepare=prepared(),
        evaluation=evaluated(),
    )
