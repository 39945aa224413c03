"""What a classifier of texts is measured by, and compared with.

That is majority, tuned TF-IDF, and a head on the frozen model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from finetune_api.evaluationreport import Metrics
from finetune_api.tasks import Baseline as BaselineName
from finetune_api.tasks import Metric
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.evaluation.baselines import (
    Baseline,
    fit_baselines,
    load_baselines,
    load_select,
    save_baselines,
    save_select,
)
from finetune_trainer.evaluation.calibration import calibrate
from finetune_trainer.evaluation.classification import RowOutputs, by_group, score, tell
from finetune_trainer.evaluation.findings import Compared, Findings, TestRows
from finetune_trainer.evaluation.inference import row_logits
from finetune_trainer.evaluation.metrics import Floats, Integers, log_probabilities
from finetune_trainer.evaluation.probe import CLASSES
from finetune_trainer.evaluation.probing import Probed, ask_probe
from finetune_trainer.evaluation.search import clusters_of
from finetune_trainer.evaluation.suspects import class_doubts, doubts
from finetune_trainer.evaluation.tables import named, of_rows, vectors
from finetune_trainer.evaluation.thresholds import TUNE, mean_f1, threshold
from finetune_trainer.evaluation.twins import Answers, counterfactuals
from finetune_trainer.models.proof import Pipeline, Proof, compare_classes

PROOF_ROWS = 16
TEXT_PIPELINE = Pipeline(
    task="text-classification", settings={"top_k": None}, call={"truncation": True}
)


class ClassEvidence:
    """Evidence of a classifier of texts; ``ClassRows`` are what it is given."""

    probe = CLASSES

    def fit_baselines(
        self,
        train: Sequence[AnyCleanRow],
        select: Sequence[AnyCleanRow],
        classes: tuple[str, ...],
        *,
        seed: int,
        resamples: int,
        folder: Path,
    ) -> Compared:
        """Fit on ``train`` alone; ``select`` only shows how well it went."""
        numbers = {label: number for number, label in enumerate(classes)}
        labels = np.asarray([numbers[row.target] for row in train], dtype=np.int64)
        fitted = fit_baselines(
            [row.input for row in train],
            labels.tolist(),
            [row.unit for row in train],
            seed,
        )
        save_baselines([one.baseline for one in fitted], folder)
        texts = [row.input for row in select]
        truth = np.asarray([numbers[row.target] for row in select])
        groups = clusters_of([row.group for row in select])
        told = {one.baseline.name: one.baseline.predict_proba(texts) for one in fitted}
        save_select(told, folder)
        return Compared(
            fits=tuple(
                one.report(
                    Metric.ACCURACY,
                    class_figures(classes, truth, told[one.baseline.name], groups, resamples, seed),
                )
                for one in fitted
            ),
            doubts=doubts(
                fitted[1],
                [row.id for row in train],
                lambda rows, told: class_doubts(classes, labels[rows], told),
            ),
        )

    def find(self, test: TestRows) -> Findings:
        """Score every test row by the model and by each baseline, in the same order."""
        texts = list(test.rows["text"])
        groups = test.groups
        baselines: list[Baseline] = load_baselines(test.baselines)
        probed = ask_probe(test, self.probe)
        select = row_logits(test.model, test.select, test.collation)
        select_labels = np.asarray(test.select["label"], dtype=np.int64)
        cut = _threshold(test, select, select_labels)
        outputs = RowOutputs(
            names=test.prepared.labels,
            labels=np.asarray(test.rows["label"], dtype=np.int64),
            logits=row_logits(test.model, test.rows, test.collation),
            baselines={
                one.name: np.asarray(one.predict_proba(texts), dtype=np.float64)
                for one in baselines
            }
            | probed.rows,
            groups=None if groups is None else np.unique(groups, return_inverse=True)[1],
            threshold=cut,
            baseline_thresholds=_baseline_thresholds(test, probed, select_labels),
        )
        scores = score(outputs, test.run.evaluation.resamples, test.run.training.seed)
        swapped = counterfactuals(
            test,
            partial(_answers, outputs),
            outputs.logits,
            lambda changes: np.abs(changes).sum(axis=1) / 2,
            outputs.groups,
        )
        chosen = spread_over_lengths(test.rows, PROOF_ROWS)
        probabilities = np.exp(log_probabilities(outputs.logits[chosen]))
        return Findings(
            scores=replace(
                scores,
                groups=by_group(outputs, test.grouped),
                counterfactuals=swapped.report if swapped else None,
                calibration=calibrate(select, select_labels, outputs.logits, outputs.labels),
                thresholds={} if cut is None else {outputs.names[1]: cut},
                baseline_thresholds={
                    name: {outputs.names[1]: own}
                    for name, own in outputs.baseline_thresholds.items()
                },
            ),
            predictions=predictions_table(
                test, outputs, further=swapped.columns if swapped else {}
            ),
            proof=Proof(
                pipeline=TEXT_PIPELINE,
                inputs=[texts[place] for place in chosen],
                compare=partial(compare_classes, outputs.names, probabilities),
                device=test.run.gang.device,
            ),
        )


def class_figures(
    names: tuple[str, ...],
    labels: Integers,
    probabilities: Floats,
    groups: Integers | None,
    resamples: int,
    seed: int,
) -> Metrics:
    """Every figure of a baseline that gives probabilities ``[rows, classes]``, as of a model."""
    outputs = RowOutputs(
        names=names,
        labels=labels,
        logits=np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)),
        baselines={},
        groups=groups,
    )
    return score(outputs, resamples, seed).metrics


def _answers(outputs: RowOutputs, logits: NDArray[np.float32]) -> Answers:
    """What the model says of other rows, told by the same threshold."""
    probabilities = np.exp(log_probabilities(logits))
    told = tell(probabilities, outputs.threshold)
    columns = {"predicted": named(outputs.names, told), "probabilities": vectors(probabilities)}
    return Answers(told=told, values=probabilities, columns=columns)


def _threshold(test: TestRows, logits: NDArray[np.float32], labels: Integers) -> float | None:
    """From which probability the last of two classes is told; unset it is the likelier one."""
    asked = test.run.evaluation.threshold
    if asked is None:
        return None
    last = np.exp(log_probabilities(logits))[:, 1]
    return threshold(asked, last, labels == 1, mean_f1)


def _baseline_thresholds(
    test: TestRows, probed: Probed, labels: Integers
) -> dict[BaselineName, float]:
    """Those that the same rule finds for the baselines, on the same select rows."""
    if test.run.evaluation.threshold != TUNE:
        return {}
    return {
        name: threshold(TUNE, values[:, 1], labels == 1, mean_f1)
        for name, values in {**load_select(test.baselines), **probed.select}.items()
    }


def predictions_table(
    test: TestRows,
    outputs: RowOutputs,
    kept: Sequence[str] = ("text",),
    further: Mapping[str, pa.Array] = MappingProxyType({}),
) -> pa.Table:
    """Lay out the predictions, a row each: every figure of the report follows from this table.

    Columns: ``row_id``, ``label``, ``predicted``, ``probabilities`` (in the order of the schema's
    metadata ``labels``), for each baseline ``NAME_predicted`` and ``NAME_probabilities``, what is
    ``further`` given, and ``group`` and what is ``kept`` of the input where there are such.
    """
    probabilities = np.exp(log_probabilities(outputs.logits))
    predicted = outputs.outcomes.predicted
    columns: dict[str, pa.Array] = {
        "label": named(outputs.names, outputs.labels),
        "predicted": named(outputs.names, predicted[0]),
        "probabilities": vectors(probabilities),
    }
    for index, (name, values) in enumerate(outputs.baselines.items(), start=1):
        columns[f"{name}_predicted"] = named(outputs.names, predicted[index])
        columns[f"{name}_probabilities"] = vectors(values)
    table = of_rows(test, {**columns, **further}, kept=kept)
    return table.replace_schema_metadata({"labels": json.dumps(list(outputs.names))})


def spread_over_lengths(rows: Dataset, most: int) -> list[int]:
    """Places of rows of every length, the shortest and the longest among them."""
    order = np.argsort([len(ids) for ids in rows["input_ids"]], kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, most).astype(np.int64))
    return [int(place) for place in order[places]]
