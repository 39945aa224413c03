"""Custom resources as plain data for the tests of schema, rules and manifests.

The smallest objects that hold, `changed` to make others of them, and for every CEL rule of the CRDs
one object that it lets pass and one that it refuses.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api import API_VERSION
from finetune_api.schema import RESOURCES, Resource, Schema, resource_schema

# A custom resource as JSON has it.
Object = dict[str, Any]

MOMENT = "2026-03-02T08:00:00Z"
LATER = "2026-03-02T09:00:00Z"
ABSENT = object()
"""As a value given to `changed`: take the field away."""

JOB: Object = {
    "apiVersion": API_VERSION,
    "kind": "FineTuneJob",
    "metadata": {"name": "reviews"},
    "spec": {
        "task": "text-classification",
        "model": {"uri": "pvc://models/minilm"},
        "dataset": {"train": "pvc://data/reviews.csv"},
    },
}
RATE_CARD: Object = {
    "apiVersion": API_VERSION,
    "kind": "RateCard",
    "metadata": {"name": "prices"},
    "spec": {
        "currency": "EUR",
        "entries": [
            {
                "name": "h100",
                "gpuType": "NVIDIA-H100",
                "pricePerHour": "2.50",
                "effectiveFrom": MOMENT,
                "source": "the price list",
            }
        ],
    },
}
USAGE_ENTRY: Object = {
    "podUid": "pod-0",
    "worker": 0,
    "node": "node-a",
    "device": "cpu",
    "milliDevices": 1000,
    "since": MOMENT,
    "until": LATER,
    "rate": {"card": "prices", "entry": "cpu", "pricePerHour": "0.05", "currency": "EUR"},
}
USAGE_RECORD: Object = {
    "apiVersion": API_VERSION,
    "kind": "UsageRecord",
    "metadata": {"name": "reviews-abc123-train-1"},
    "spec": {
        "job": {"namespace": "default", "name": "reviews", "uid": "abc123"},
        "step": "train",
        "attempt": 1,
        "entries": [USAGE_ENTRY],
        "cost": "0.05",
    },
}


def changed(base: Object, changes: Mapping[str, Any]) -> Object:
    """A copy of an object with the fields at dotted paths set, or taken away."""
    result = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        target: Any = result
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
        if value is ABSENT:
            target.pop(last, None)
        elif isinstance(target, list):
            target[int(last)] = value
        else:
            target[last] = value
    return result


def admitted(job: Object) -> Object:
    """The job as it is once its spec is frozen."""
    condition = {
        "type": "Admitted",
        "status": "True",
        "reason": "Admitted",
        "lastTransitionTime": MOMENT,
    }
    return changed(job, {"status.conditions": [condition]})


def resource_of(obj: Object) -> Resource:
    """How the API server serves the object's kind."""
    return next(it for it in RESOURCES if it.kind.kind == obj["kind"])


def schema_of(obj: Object) -> Schema:
    """The schema of the object's kind, as it stands in the CRD."""
    return resource_schema(resource_of(obj))


@dataclass(frozen=True)
class RuleExample:
    """What one CEL rule lets pass, and what it refuses.

    A transition rule has a state `before`; `subresource` says through which door the next one
    comes. The rule is named by how its message begins.
    """

    rule: str
    accepted: Object
    rejected: Object
    before: Object | None = None
    subresource: str = ""


def _gate(**fields: Any) -> list[Object]:
    return [{"name": "good", "metric": "accuracy", "min": 0.5, **fields}]


def _gate_at_most(**fields: Any) -> list[Object]:
    return [{"name": "good", "max": 0.5, **fields}]


def _grouped(base: Object = JOB, groups: Sequence[str] = ("domain",), **gate: Any) -> Object:
    """A job that asks for groups, and requires something of them where `gate` says so."""
    rule = {"name": "fair", "metric": "accuracy", "group": "domain", "maxShortfall": 0.1} | gate
    return changed(
        base,
        {
            "spec.evaluation.groups": list(groups),
            "spec.evaluation.gate": [{k: v for k, v in rule.items() if v is not None}],
        },
    )


_SWAPS: Object = {
    "swaps": [{"name": "gender", "pairs": [["he", "she"]]}],
    "neutral": [["Monday", "Tuesday"]],
}


def _swapped(**gate: Any) -> Object:
    """A job that asks what a swap of terms does, and requires that it does little."""
    rule = {"name": "deaf", "metric": "flipRate", "max": 0.05} | gate
    return changed(JOB, {"spec.evaluation": {"counterfactuals": _SWAPS, "gate": [rule]}})


def _multi_label(**gate: Any) -> Object:
    return changed(
        JOB,
        {"spec.task": "multi-label-classification", "spec.evaluation.gate": _gate(**gate)},
    )


def _regression(*, gate: list[Object]) -> Object:
    return changed(
        JOB,
        {
            "spec.task": "text-regression",
            "spec.dataset": {"train": "pvc://data/scores.csv"},
            "spec.evaluation.gate": gate,
        },
    )


def _tolerating(**fields: Any) -> Object:
    return changed(JOB, {"spec.compute.tolerations": [fields]})


_DATASET = {"train": "pvc://data/reviews.csv", "labels": ["good", "bad"]}
_TAGS = changed(JOB, {"spec.task": "token-classification"})
_LANGUAGE = changed(JOB, {"spec.task": "causal-lm"})
_IMAGES = changed(JOB, {"spec.task": "image-classification", "spec.dataset.train": "pvc://x/y"})
_PROMPTS = {"prompt": "question", "completion": "answer"}
_SEALED = changed(USAGE_RECORD, {"spec.sealed": True})
_RUNNING = changed(JOB, {"status.attempt": 2, "status.phase": "Training"})

RULE_EXAMPLES: tuple[RuleExample, ...] = (
    RuleExample(
        "metadata.name must be at most 40 characters",
        accepted=changed(JOB, {"metadata.name": "a" * 40}),
        rejected=changed(JOB, {"metadata.name": "a" * 41}),
    ),
    RuleExample(
        "model.uri must be pvc://",
        accepted=changed(JOB, {"spec.model.uri": "models/minilm"}),
        rejected=changed(JOB, {"spec.model.uri": "s3://models/minilm"}),
    ),
    RuleExample(
        "model.lora goes with model.method lora",
        accepted=changed(JOB, {"spec.model.lora": {"rank": 8}, "spec.model.method": "lora"}),
        rejected=changed(JOB, {"spec.model.lora": {"rank": 8}}),
    ),
    RuleExample(
        "dataset.train must be pvc://",
        accepted=changed(JOB, {"spec.dataset.train": "s3://bucket/reviews.csv"}),
        rejected=changed(JOB, {"spec.dataset.train": "ftp://host/reviews.csv"}),
    ),
    RuleExample(
        "dataset.test must be pvc://",
        accepted=changed(JOB, {"spec.dataset.test": "https://host/test.csv"}),
        rejected=changed(JOB, {"spec.dataset.test": "http://host/test.csv"}),
    ),
    RuleExample(
        "dataset.labels: one class can't be classified",
        accepted=changed(JOB, {"spec.dataset.labels": ["good", "bad"]}),
        rejected=changed(JOB, {"spec.dataset.labels": ["good"]}),
    ),
    RuleExample(
        "dataset.cleaning.dropLabels: a label of dataset.labels",
        accepted=changed(
            JOB, {"spec.dataset": {**_DATASET, "cleaning": {"dropLabels": ["unsure"]}}}
        ),
        rejected=changed(JOB, {"spec.dataset": {**_DATASET, "cleaning": {"dropLabels": ["bad"]}}}),
    ),
    RuleExample(
        "dataset.split: select and test together",
        accepted=changed(JOB, {"spec.dataset.split": {"select": 39, "test": 50}}),
        rejected=changed(JOB, {"spec.dataset.split": {"select": 40, "test": 50}}),
    ),
    RuleExample(
        "training.epochs and training.maxSteps exclude each other",
        accepted=changed(JOB, {"spec.training": {"maxSteps": 20}}),
        rejected=changed(JOB, {"spec.training": {"maxSteps": 20, "epochs": 1}}),
    ),
    RuleExample(
        "evaluation.gate: against goes with metric errorReduction",
        accepted=changed(
            JOB, {"spec.evaluation.gate": _gate(metric="errorReduction", against="majority")}
        ),
        rejected=changed(JOB, {"spec.evaluation.gate": _gate(against="majority")}),
    ),
    RuleExample(
        "output.uri must be s3://BUCKET/PREFIX",
        accepted=changed(JOB, {"spec.output": {"uri": "s3://models/reviews/v1"}}),
        rejected=changed(JOB, {"spec.output": {"uri": "s3://models/reviews/"}}),
    ),
    RuleExample(
        "deepspeed.offload: optimizer needs",
        accepted=changed(JOB, {"spec.deepspeed": {"offload": "optimizer", "zeroStage": 1}}),
        rejected=changed(JOB, {"spec.deepspeed": {"offload": "optimizer", "zeroStage": 0}}),
    ),
    RuleExample(
        "deepspeed.offload: parameters needs",
        accepted=changed(JOB, {"spec.deepspeed": {"offload": "parameters", "zeroStage": 3}}),
        rejected=changed(JOB, {"spec.deepspeed": {"offload": "parameters", "zeroStage": 2}}),
    ),
    RuleExample(
        "training.precision: fp16 needs GPUs",
        accepted=changed(
            JOB, {"spec.training.precision": "fp16", "spec.compute": {"gpusPerWorker": 1}}
        ),
        rejected=changed(
            JOB, {"spec.training.precision": "fp16", "spec.compute": {"gpusPerWorker": 0}}
        ),
    ),
    RuleExample(
        "training.globalBatchSize must be a multiple",
        accepted=changed(
            JOB,
            {
                "spec.training.globalBatchSize": 30,
                "spec.compute": {"workers": 3, "gpusPerWorker": 0},
            },
        ),
        rejected=changed(
            JOB,
            {
                "spec.training.globalBatchSize": 30,
                "spec.compute": {"workers": 3, "gpusPerWorker": 4},
            },
        ),
    ),
    RuleExample(
        "evaluation.gate: min below 0 makes sense",
        accepted=changed(JOB, {"spec.evaluation.gate": _gate(metric="mcc", min=-0.5)}),
        rejected=changed(JOB, {"spec.evaluation.gate": _gate(min=-0.5)}),
    ),
    RuleExample(
        "evaluation.gate: loss, expectedCalibrationError",
        accepted=changed(JOB, {"spec.evaluation.gate": _gate_at_most(metric="loss")}),
        rejected=changed(JOB, {"spec.evaluation.gate": _gate(metric="loss")}),
    ),
    RuleExample(
        "evaluation.gate: bound Lower goes with min",
        accepted=changed(JOB, {"spec.evaluation.gate": _gate(bound="Lower")}),
        rejected=changed(JOB, {"spec.evaluation.gate": _gate(bound="Upper")}),
    ),
    RuleExample(
        "evaluation.gate: expectedCalibrationError has no interval",
        accepted=changed(
            JOB, {"spec.evaluation.gate": _gate_at_most(metric="loss", bound="Upper")}
        ),
        rejected=changed(
            JOB,
            {
                "spec.evaluation.gate": _gate_at_most(
                    metric="expectedCalibrationError", bound="Upper"
                )
            },
        ),
    ),
    RuleExample(
        "evaluation.gate: group and maxShortfall go together",
        accepted=_grouped(),
        rejected=_grouped(maxShortfall=None, min=0.5),
    ),
    RuleExample(
        "evaluation.gate: insufficient goes with group",
        accepted=_grouped(insufficient="pass"),
        rejected=changed(JOB, {"spec.evaluation.gate": _gate(insufficient="pass")}),
    ),
    RuleExample(
        "evaluation.gate: swap goes with",
        accepted=_swapped(swap="gender"),
        rejected=changed(JOB, {"spec.evaluation.gate": _gate(swap="gender")}),
    ),
    RuleExample(
        "evaluation.gate: flipRate, flipExcess, swapChange are measured where",
        accepted=_swapped(),
        rejected=changed(_swapped(), {"spec.evaluation.counterfactuals": ABSENT}),
    ),
    RuleExample(
        "evaluation.gate: swap names none of evaluation.counterfactuals.swaps",
        accepted=_swapped(swap="gender"),
        rejected=_swapped(swap="age"),
    ),
    RuleExample(
        "evaluation.counterfactuals.swaps: neutral names the control",
        accepted=_swapped(),
        rejected=changed(_swapped(), {"spec.evaluation.counterfactuals.swaps.0.name": "neutral"}),
    ),
    RuleExample(
        "evaluation.counterfactuals.swaps: a term is its own partner",
        accepted=_swapped(),
        rejected=changed(_swapped(), {"spec.evaluation.counterfactuals.swaps.0.pairs.0.1": "he"}),
    ),
    RuleExample(
        "evaluation.counterfactuals.neutral: a term is its own partner",
        accepted=_swapped(),
        rejected=changed(_swapped(), {"spec.evaluation.counterfactuals.neutral.0.0": "Tuesday"}),
    ),
    *(
        RuleExample(
            f"evaluation.counterfactuals: {name} has no texts whose terms are swapped",
            accepted=base,
            rejected=changed(base, {"spec.evaluation.counterfactuals": _SWAPS}),
        )
        for name, base in (
            ("token-classification", _TAGS),
            ("causal-lm", _LANGUAGE),
            ("image-classification", _IMAGES),
        )
    ),
    RuleExample(
        "evaluation.gate: maxShortfall stands instead of min and max",
        accepted=_grouped(bound="Upper"),
        rejected=_grouped(min=0.5),
    ),
    RuleExample(
        "evaluation.groups: a column stands there twice",
        accepted=_grouped(groups=["domain", "age"]),
        rejected=_grouped(groups=["domain", "domain"]),
    ),
    RuleExample(
        "evaluation.gate: group names a column that is not in evaluation.groups",
        accepted=_grouped(groups=["age"], group="age"),
        rejected=_grouped(groups=["age"]),
    ),
    RuleExample(
        "evaluation.gate: groups of text-classification are compared by",
        accepted=_grouped(metric="truePositiveRate"),
        rejected=_grouped(metric="macroF1"),
    ),
    RuleExample(
        "evaluation.gate: groups of multi-label-classification are compared by",
        accepted=_grouped(_multi_label(), metric="labelAccuracy"),
        rejected=_grouped(_multi_label(), metric="microF1"),
    ),
    RuleExample(
        "evaluation.gate: groups of text-regression are compared by",
        accepted=_grouped(_regression(gate=[]), metric="mae"),
        rejected=_grouped(_regression(gate=[]), metric="rmse"),
    ),
    RuleExample(
        "evaluation.gate: groups of causal-lm are compared by",
        accepted=_grouped(_LANGUAGE, metric="loss"),
        rejected=_grouped(_LANGUAGE, metric="perplexity"),
    ),
    RuleExample(
        "evaluation.threshold: text-regression tells no labels",
        accepted=_regression(gate=[]),
        rejected=changed(_regression(gate=[]), {"spec.evaluation.threshold": "0.5"}),
    ),
    RuleExample(
        "evaluation.threshold: causal-lm tells no labels",
        accepted=_LANGUAGE,
        rejected=changed(_LANGUAGE, {"spec.evaluation.threshold": "tune"}),
    ),
    RuleExample(
        "evaluation.threshold: of more than two classes",
        accepted=changed(JOB, {"spec.evaluation.threshold": "0.25"}),
        rejected=changed(
            JOB, {"spec.evaluation.threshold": "tune", "spec.dataset.labels": ["a", "b", "c"]}
        ),
    ),
    RuleExample(
        "evaluation.gate: text-classification is measured by",
        accepted=changed(JOB, {"spec.evaluation.gate": _gate(metric="macroF1")}),
        rejected=changed(JOB, {"spec.evaluation.gate": _gate(metric="spearman")}),
    ),
    RuleExample(
        "evaluation.gate: text-classification is compared with",
        accepted=changed(
            JOB, {"spec.evaluation.gate": _gate(metric="errorReduction", against="tfidf")}
        ),
        rejected=changed(
            JOB, {"spec.evaluation.gate": _gate(metric="errorReduction", against="mean")}
        ),
    ),
    RuleExample(
        "evaluation.gate: multi-label-classification is measured by",
        accepted=_multi_label(metric="exactMatch"),
        rejected=_multi_label(metric="accuracy"),
    ),
    RuleExample(
        "evaluation.gate: multi-label-classification is compared with",
        accepted=_multi_label(metric="errorReduction", against="tfidf"),
        rejected=_multi_label(metric="errorReduction", against="mean"),
    ),
    RuleExample(
        "evaluation.gate: text-regression is measured by",
        accepted=_regression(gate=_gate(metric="spearman")),
        rejected=_regression(gate=_gate()),
    ),
    RuleExample(
        "evaluation.gate: text-regression is compared with",
        accepted=_regression(gate=_gate(metric="errorReduction", against="mean")),
        rejected=_regression(gate=_gate(metric="errorReduction", against="majority")),
    ),
    RuleExample(
        "dataset: text-regression has no classes",
        accepted=_regression(gate=[]),
        rejected=changed(_regression(gate=[]), {"spec.dataset.labels": ["good", "bad"]}),
    ),
    RuleExample(
        "evaluation.gate: token-classification is measured by",
        accepted=changed(_TAGS, {"spec.evaluation.gate": _gate(metric="recall")}),
        rejected=changed(_TAGS, {"spec.evaluation.gate": _gate()}),
    ),
    RuleExample(
        "evaluation.gate: token-classification is compared with",
        accepted=changed(
            _TAGS,
            {"spec.evaluation.gate": _gate(metric="errorReduction", against="wordMajority")},
        ),
        rejected=changed(
            _TAGS, {"spec.evaluation.gate": _gate(metric="errorReduction", against="tfidf")}
        ),
    ),
    RuleExample(
        "dataset.columns.tokens goes with task",
        accepted=changed(_TAGS, {"spec.dataset.columns": {"tokens": "words"}}),
        rejected=changed(JOB, {"spec.dataset.columns": {"tokens": "words"}}),
    ),
    RuleExample(
        "dataset.columns.tags goes with task",
        accepted=changed(_TAGS, {"spec.dataset.columns": {"tags": "ner"}}),
        rejected=changed(JOB, {"spec.dataset.columns": {"tags": "ner"}}),
    ),
    RuleExample(
        "dataset.tagScheme goes with task",
        accepted=changed(_TAGS, {"spec.dataset.tagScheme": "iob1"}),
        rejected=changed(JOB, {"spec.dataset.tagScheme": "plain"}),
    ),
    RuleExample(
        "dataset.format: conll goes with task",
        accepted=changed(_TAGS, {"spec.dataset.format": "conll"}),
        rejected=changed(JOB, {"spec.dataset.format": "conll"}),
    ),
    *(
        RuleExample(
            f"training.classWeights: {task} has not one class",
            accepted=changed(JOB, {"spec.training": {"classWeights": {"balanced": True}}}),
            rejected=changed(
                JOB, {"spec.task": task, "spec.training": {"classWeights": {"balanced": True}}}
            ),
        )
        for task in ("multi-label-classification", "text-regression", "causal-lm")
    ),
    *(
        RuleExample(
            f"training.sampling: {task} has not one class",
            accepted=changed(JOB, {"spec.training": {"sampling": "balanced"}}),
            rejected=changed(JOB, {"spec.task": task, "spec.training": {"sampling": "balanced"}}),
        )
        for task in (
            "multi-label-classification",
            "text-regression",
            "token-classification",
            "causal-lm",
        )
    ),
    RuleExample(
        "training.classWeights: set balanced",
        accepted=changed(JOB, {"spec.training": {"classWeights": {"weights": {"good": 2.5}}}}),
        rejected=changed(JOB, {"spec.training": {"classWeights": {}}}),
    ),
    RuleExample(
        "training.classWeights and sampling",
        accepted=changed(JOB, {"spec.training": {"classWeights": {"balanced": True}}}),
        rejected=changed(
            JOB,
            {"spec.training": {"classWeights": {"balanced": True}, "sampling": "balanced"}},
        ),
    ),
    RuleExample(
        "dataset.columns: prompt and completion go together",
        accepted=changed(_LANGUAGE, {"spec.dataset.columns": _PROMPTS}),
        rejected=changed(_LANGUAGE, {"spec.dataset.columns": {"prompt": "question"}}),
    ),
    RuleExample(
        "dataset.columns: messages excludes prompt and completion",
        accepted=changed(_LANGUAGE, {"spec.dataset.columns": {"messages": "chat"}}),
        rejected=changed(_LANGUAGE, {"spec.dataset.columns": {**_PROMPTS, "messages": "chat"}}),
    ),
    RuleExample(
        "dataset.columns.tools goes with dataset.columns.messages",
        accepted=changed(
            _LANGUAGE, {"spec.dataset.columns": {"messages": "chat", "tools": "tools"}}
        ),
        rejected=changed(_LANGUAGE, {"spec.dataset.columns": {"tools": "tools"}}),
    ),
    RuleExample(
        "dataset.columns.prompt goes with task",
        accepted=changed(_LANGUAGE, {"spec.dataset.columns": _PROMPTS}),
        rejected=changed(JOB, {"spec.dataset.columns": _PROMPTS}),
    ),
    RuleExample(
        "dataset.columns.messages goes with task",
        accepted=changed(_LANGUAGE, {"spec.dataset.columns": {"messages": "chat"}}),
        rejected=changed(JOB, {"spec.dataset.columns": {"messages": "chat"}}),
    ),
    RuleExample(
        "dataset.maxDroppedPercent goes with task",
        accepted=changed(_LANGUAGE, {"spec.dataset.maxDroppedPercent": 20}),
        rejected=changed(JOB, {"spec.dataset.maxDroppedPercent": 20}),
    ),
    RuleExample(
        "training.truncation goes with task",
        accepted=changed(_LANGUAGE, {"spec.training.truncation": "keepEnd"}),
        rejected=changed(JOB, {"spec.training.truncation": "keepEnd"}),
    ),
    RuleExample(
        "training.packing goes with task",
        accepted=changed(_LANGUAGE, {"spec.training.packing": False}),
        rejected=changed(JOB, {"spec.training.packing": False}),
    ),
    RuleExample(
        "dataset.columns.image goes with task",
        accepted=changed(_IMAGES, {"spec.dataset.columns": {"image": "photo"}}),
        rejected=changed(JOB, {"spec.dataset.columns": {"image": "photo"}}),
    ),
    RuleExample(
        "training.augmentation goes with task",
        accepted=changed(_IMAGES, {"spec.training.augmentation": {"horizontalFlip": True}}),
        rejected=changed(JOB, {"spec.training.augmentation": {"horizontalFlip": True}}),
    ),
    RuleExample(
        "training.batchNorm goes with task",
        accepted=changed(_IMAGES, {"spec.training.batchNorm": "train"}),
        rejected=changed(JOB, {"spec.training.batchNorm": "frozen"}),
    ),
    RuleExample(
        "training.activationCheckpointing would count each batch twice",
        accepted=changed(_IMAGES, {"spec.training": {"activationCheckpointing": True}}),
        rejected=changed(
            _IMAGES, {"spec.training": {"activationCheckpointing": True, "batchNorm": "train"}}
        ),
    ),
    *(
        RuleExample(
            f"{field} is for texts",
            accepted=changed(JOB, {f"spec.{field}": value}),
            rejected=changed(_IMAGES, {f"spec.{field}": value}),
        )
        for field, value in (
            ("dataset.cleaning.markup", False),
            ("dataset.cleaning.unicodeForm", "NFKC"),
            ("dataset.cleaning.minCharacters", 3),
            ("dataset.columns.text", "caption"),
            ("training.maxLength", 64),
        )
    ),
    RuleExample(
        "evaluation.gate: groups of token-classification are compared by",
        accepted=_grouped(_TAGS, metric="microF1"),
        rejected=_grouped(_TAGS, metric="macroF1"),
    ),
    RuleExample(
        "evaluation.groups: files in format conll have no columns",
        accepted=changed(_TAGS, {"spec.evaluation.groups": ["domain"]}),
        rejected=changed(
            _TAGS, {"spec.evaluation.groups": ["domain"], "spec.dataset.format": "conll"}
        ),
    ),
    RuleExample(
        "evaluation.threshold: token-classification tells no labels",
        accepted=_TAGS,
        rejected=changed(_TAGS, {"spec.evaluation.threshold": "0.5"}),
    ),
    RuleExample(
        "evaluation.gate: groups of image-classification are compared by",
        accepted=_grouped(_IMAGES, metric="accuracy"),
        rejected=_grouped(_IMAGES, metric="macroF1"),
    ),
    RuleExample(
        "evaluation.threshold: image-classification tells no labels",
        accepted=_IMAGES,
        rejected=changed(_IMAGES, {"spec.evaluation.threshold": "0.5"}),
    ),
    RuleExample(
        "evaluation.gate: image-classification is measured by",
        accepted=changed(_IMAGES, {"spec.evaluation.gate": _gate(metric="macroF1")}),
        rejected=changed(_IMAGES, {"spec.evaluation.gate": _gate(metric="rSquared")}),
    ),
    RuleExample(
        "evaluation.gate: image-classification is compared with",
        accepted=changed(
            _IMAGES, {"spec.evaluation.gate": _gate(metric="errorReduction", against="pixels")}
        ),
        rejected=changed(
            _IMAGES, {"spec.evaluation.gate": _gate(metric="errorReduction", against="tfidf")}
        ),
    ),
    RuleExample(
        "dataset: causal-lm has no classes",
        accepted=_LANGUAGE,
        rejected=changed(_LANGUAGE, {"spec.dataset.labels": ["good", "bad"]}),
    ),
    RuleExample(
        "dataset.split.strategy: causal-lm",
        accepted=changed(_LANGUAGE, {"spec.dataset.split": {"strategy": "hash"}}),
        rejected=changed(_LANGUAGE, {"spec.dataset.split": {"strategy": "stratified"}}),
    ),
    RuleExample(
        "evaluation.gate: causal-lm is measured by",
        accepted=changed(
            _LANGUAGE,
            {"spec.evaluation.gate": [{"name": "sure", "metric": "perplexity", "max": 20}]},
        ),
        rejected=changed(_LANGUAGE, {"spec.evaluation.gate": _gate()}),
    ),
    RuleExample(
        "evaluation.gate: causal-lm is compared with",
        accepted=changed(
            _LANGUAGE,
            {"spec.evaluation.gate": _gate(metric="errorReduction", against="untuned")},
        ),
        rejected=changed(
            _LANGUAGE, {"spec.evaluation.gate": _gate(metric="errorReduction", against="tfidf")}
        ),
    ),
    RuleExample(
        "storage.claim and storage.size exclude each other",
        accepted=changed(JOB, {"spec.storage": {"size": "100Gi", "storageClassName": "fast"}}),
        rejected=changed(JOB, {"spec.storage": {"size": "100Gi", "claim": "work"}}),
    ),
    RuleExample(
        "storage.storageClassName goes with size",
        accepted=changed(JOB, {"spec.storage": {"storageClassName": "fast"}}),
        rejected=changed(JOB, {"spec.storage": {"storageClassName": "fast", "claim": "work"}}),
    ),
    RuleExample(
        "storage.whenDeleted Delete goes with size",
        accepted=changed(JOB, {"spec.storage": {"whenDeleted": "Delete"}}),
        rejected=changed(JOB, {"spec.storage": {"whenDeleted": "Delete", "claim": "work"}}),
    ),
    RuleExample(
        "compute.nodeSelector: a key must be",
        accepted=changed(JOB, {"spec.compute": {"nodeSelector": {"kubernetes.io/arch": "amd64"}}}),
        rejected=changed(JOB, {"spec.compute": {"nodeSelector": {"the zone": "a"}}}),
    ),
    RuleExample(
        "compute.tolerations: operator Equal needs a key",
        accepted=_tolerating(operator="Exists"),
        rejected=_tolerating(value="gpu"),
    ),
    RuleExample(
        "compute.tolerations: a value goes with operator Equal",
        accepted=_tolerating(key="dedicated", value="gpu"),
        rejected=_tolerating(key="dedicated", operator="Exists", value="gpu"),
    ),
    RuleExample(
        "compute.tolerations: tolerationSeconds goes with effect NoExecute",
        accepted=_tolerating(key="dedicated", effect="NoExecute", tolerationSeconds=60),
        rejected=_tolerating(key="dedicated", tolerationSeconds=60),
    ),
    RuleExample(
        "an admitted job's spec is immutable",
        before=admitted(JOB),
        accepted=changed(admitted(JOB), {"spec.policy.backoffLimit": 5}),
        rejected=changed(admitted(JOB), {"spec.training.seed": 7}),
    ),
    RuleExample(
        "compute is immutable once the job is admitted",
        before=admitted(changed(JOB, {"spec.suspend": True})),
        accepted=admitted(changed(JOB, {"spec.suspend": True, "spec.compute.workers": 2})),
        rejected=admitted(changed(JOB, {"spec.suspend": True, "spec.compute.gpuType": "a100"})),
    ),
    RuleExample(
        "status can't be taken away",
        before=_RUNNING,
        accepted=changed(_RUNNING, {"status.message": "going on"}),
        rejected=changed(_RUNNING, {"status": ABSENT}),
        subresource="status",
    ),
    RuleExample(
        "status.attempt never falls",
        before=_RUNNING,
        accepted=changed(_RUNNING, {"status.attempt": 3}),
        rejected=changed(_RUNNING, {"status.attempt": 1}),
        subresource="status",
    ),
    RuleExample(
        "a finished job stays finished",
        before=changed(JOB, {"status.phase": "Failed"}),
        accepted=changed(JOB, {"status.phase": "Failed", "status.message": "no space"}),
        rejected=changed(JOB, {"status.phase": "Training"}),
        subresource="status",
    ),
    RuleExample(
        "metadata.name must consist of",
        accepted=changed(RATE_CARD, {"metadata.name": "prices.2026-q1"}),
        rejected=changed(RATE_CARD, {"metadata.name": "Prices"}),
    ),
    RuleExample(
        "gpuType goes with resource accelerator",
        accepted=changed(
            RATE_CARD, {"spec.entries.0.resource": "cpu", "spec.entries.0.gpuType": ABSENT}
        ),
        rejected=changed(RATE_CARD, {"spec.entries.0.resource": "cpu"}),
    ),
    RuleExample(
        "an entry can't end before it begins",
        accepted=changed(USAGE_RECORD, {"spec.entries.0.until": MOMENT}),
        # Later as text, earlier as a moment.
        rejected=changed(USAGE_RECORD, {"spec.entries.0.until": "2026-03-02T09:00:00+02:00"}),
    ),
    RuleExample(
        "a record stays that of its job, attempt and revision",
        before=USAGE_RECORD,
        accepted=changed(USAGE_RECORD, {"spec.sealed": True}),
        rejected=changed(USAGE_RECORD, {"spec.revision": 1}),
    ),
    RuleExample(
        "a sealed record's intervals and prices are final",
        before=_SEALED,
        accepted=changed(
            _SEALED, {"spec.entries.0.classes": [{"name": "lost", "milliseconds": 60_000}]}
        ),
        rejected=changed(_SEALED, {"spec.entries.0.until": "2026-03-02T08:30:00Z"}),
    ),
    RuleExample(
        "a settled record is final",
        before=changed(_SEALED, {"spec.lostSettled": True}),
        accepted=changed(_SEALED, {"spec.lostSettled": True, "metadata.labels.checked": "yes"}),
        rejected=changed(
            _SEALED,
            {
                "spec.lostSettled": True,
                "spec.entries.0.classes": [{"name": "lost", "milliseconds": 1}],
            },
        ),
    ),
)


def rules_in(schema: Schema) -> Iterator[Schema]:
    """Every CEL rule of a schema, wherever it stands."""
    yield from schema.get("x-kubernetes-validations", ())
    for child in schema.get("properties", {}).values():
        yield from rules_in(child)
    if "items" in schema:
        yield from rules_in(schema["items"])
    if "additionalProperties" in schema:
        yield from rules_in(schema["additionalProperties"])
