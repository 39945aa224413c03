"""What a classifier of several labels is measured by, and compared with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune_api.evaluationreport import Metrics
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.evaluation.baselines import load_select, save_select
from finetune_trainer.evaluation.class_evidence import (
    PROOF_ROWS,
    TEXT_PIPELINE,
    spread_over_lengths,
)
from finetune_trainer.evaluation.findings import Compared, Findings, TestRows
from finetune_trainer.evaluation.inference import row_logits
from finetune_trainer.evaluation.label_baselines import (
    fit_label_baselines,
    load_label_baselines,
    save_label_baselines,
)
from finetune_trainer.evaluation.metrics import Floats
from finetune_trainer.evaluation.multilabel import (
    Flags,
    LabelOutputs,
    by_group,
    logit,
    score,
    sigmoid,
)
from finetune_trainer.evaluation.probe import LABELS
from finetune_trainer.evaluation.probing import Probed, ask_probe
from finetune_trainer.evaluation.search import clusters_of
from finetune_trainer.evaluation.suspects import doubts, label_doubts
from finetune_trainer.evaluation.tables import of_rows, vectors
from finetune_trainer.evaluation.thresholds import TUNE, f1, threshold
from finetune_trainer.evaluation.twins import Answers, counterfactuals
from finetune_trainer.models.proof import Proof, compare_classes


class LabelEvidence:
    """Evidence of a classifier of several labels; ``LabelRows`` are what it is given."""

    probe = LABELS

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
        labels = _flags(train, classes)
        shares, tfidf = fit_label_baselines(
            [row.input for row in train],
            labels,
            [row.unit for row in train],
            seed,
        )
        save_label_baselines(shares.baseline, tfidf.baseline, folder)
        texts, truth = [row.input for row in select], _flags(select, classes)
        told = {
            shares.baseline.name: shares.baseline.predict_proba(texts),
            tfidf.baseline.name: tfidf.baseline.predict_proba(texts),
        }
        save_select(told, folder)
        groups = clusters_of([row.group for row in select])

        def figures(probabilities: Floats) -> Metrics:
            outputs = LabelOutputs(classes, truth, logit(probabilities), {}, groups)
            return score(outputs, resamples, seed).metrics

        return Compared(
            fits=tuple(
                one.report(Metric.MICRO_F1, figures(told[one.baseline.name]))
                for one in (shares, tfidf)
            ),
            doubts=doubts(
                tfidf,
                [row.id for row in train],
                lambda rows, told: label_doubts(classes, labels[rows], told),
            ),
        )

    def find(self, test: TestRows) -> Findings:
        """Score every test row by the model and by each baseline, in the same order."""
        texts = list(test.rows["text"])
        groups = test.groups
        probed = ask_probe(test, self.probe)
        cuts, baseline_cuts = _thresholds(test, probed)
        outputs = LabelOutputs(
            names=test.prepared.labels,
            truth=np.asarray(test.rows["label"], dtype=np.bool_),
            logits=row_logits(test.model, test.rows, test.collation),
            baselines={
                one.name: one.predict_proba(texts) for one in load_label_baselines(test.baselines)
            }
            | probed.rows,
            groups=None if groups is None else np.unique(groups, return_inverse=True)[1],
            thresholds=cuts,
            baseline_thresholds=baseline_cuts,
        )

        def by_label(own: Floats) -> dict[str, float]:
            return dict(zip(outputs.names, own.tolist(), strict=True))

        scores = score(outputs, test.run.evaluation.resamples, test.run.training.seed)
        swapped = counterfactuals(
            test,
            partial(_answers, outputs),
            outputs.logits,
            lambda changes: np.abs(changes).mean(axis=1),
            outputs.groups,
        )
        chosen = spread_over_lengths(test.rows, PROOF_ROWS)
        return Findings(
            scores=replace(
                scores,
                groups=by_group(outputs, test.grouped),
                counterfactuals=swapped.report if swapped else None,
                thresholds={} if cuts is None else by_label(cuts),
                baseline_thresholds={name: by_label(own) for name, own in baseline_cuts.items()},
            ),
            predictions=predictions_table(test, outputs, swapped.columns if swapped else {}),
            proof=Proof(
                pipeline=TEXT_PIPELINE,
                inputs=[texts[place] for place in chosen],
                compare=partial(compare_classes, outputs.names, outputs.probabilities[chosen]),
                device=test.run.gang.device,
            ),
        )


def _answers(outputs: LabelOutputs, logits: NDArray[np.float32]) -> Answers:
    """What the model says of other rows, told by the same thresholds."""
    other = replace(outputs, logits=logits, baselines={})
    told, probabilities = other.answers[0], other.probabilities
    columns = {"predicted": _named(outputs.names, told), "probabilities": vectors(probabilities)}
    return Answers(told=told, values=probabilities, columns=columns)


def _thresholds(test: TestRows, probed: Probed) -> tuple[Floats | None, dict[Baseline, Floats]]:
    """From which probability each label is told, by the model and, where tuned, by each baseline.

    Unset it is a half for all.
    """
    asked = test.run.evaluation.threshold
    if asked is None:
        return None, {}
    truth = np.asarray(test.select["label"], dtype=np.bool_)

    def of(probabilities: Floats) -> Floats:
        pairs = zip(probabilities.T, truth.T, strict=True)
        return np.asarray([threshold(asked, one, there, f1) for one, there in pairs])

    model = of(sigmoid(row_logits(test.model, test.select, test.collation)))
    if asked != TUNE:
        return model, {}
    told = {**load_select(test.baselines), **probed.select}
    return model, {name: of(values) for name, values in told.items()}


def predictions_table(
    test: TestRows, outputs: LabelOutputs, further: Mapping[str, pa.Array]
) -> pa.Table:
    """Lay out the predictions, a row each: every figure of the report follows from this table.

    Columns: ``row_id``, ``labels`` and ``predicted`` (lists of names), ``probabilities`` (in the
    order of the schema's metadata ``labels``), for each baseline ``NAME_predicted`` and
    ``NAME_probabilities``, what is ``further`` given, and ``group`` and ``text`` where there are
    such.
    """
    columns = {
        "labels": _named(outputs.names, outputs.truth),
        "predicted": _named(outputs.names, outputs.answers[0]),
        "probabilities": vectors(outputs.probabilities),
    }
    for place, (name, values) in enumerate(outputs.baselines.items(), start=1):
        columns[f"{name}_predicted"] = _named(outputs.names, outputs.answers[place])
        columns[f"{name}_probabilities"] = vectors(values)
    table = of_rows(test, {**columns, **further}, kept=("text",))
    return table.replace_schema_metadata({"labels": json.dumps(list(outputs.names))})


def _flags(rows: Sequence[AnyCleanRow], classes: tuple[str, ...]) -> Flags:
    return np.asarray([[one in row.target for one in classes] for row in rows], dtype=np.bool_)


def _named(names: Sequence[str], flags: Flags) -> pa.Array:
    chosen = [[name for name, flag in zip(names, row, strict=True) if flag] for row in flags]
    return pa.array(chosen, pa.list_(pa.string()))
