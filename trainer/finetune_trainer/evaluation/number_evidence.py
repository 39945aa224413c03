"""What a regressor of texts is measured by, and compared with.

That is the mean, tuned TF-IDF, and a head on the frozen model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from finetune_api.evaluationreport import Metrics
from finetune_api.tasks import Metric
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.evaluation.class_evidence import PROOF_ROWS, spread_over_lengths
from finetune_trainer.evaluation.findings import Compared, Findings, TestRows
from finetune_trainer.evaluation.inference import row_logits
from finetune_trainer.evaluation.metrics import Floats
from finetune_trainer.evaluation.number_baselines import (
    fit_number_baselines,
    load_number_baselines,
    save_number_baselines,
)
from finetune_trainer.evaluation.probe import NUMBERS
from finetune_trainer.evaluation.probing import ask_probe
from finetune_trainer.evaluation.regression import NumberOutputs, by_group, score
from finetune_trainer.evaluation.search import clusters_of
from finetune_trainer.evaluation.suspects import doubts, number_doubts
from finetune_trainer.evaluation.tables import of_rows
from finetune_trainer.evaluation.twins import Answers, counterfactuals
from finetune_trainer.models.proof import Pipeline, Proof, compare_numbers

NUMBER_PIPELINE = Pipeline(task="text-classification", call={"truncation": True})
"""transformers calls it so for a head of one number too, and then gives that as the score."""


class NumberEvidence:
    """Evidence of a regressor of texts; ``NumberRows`` are what it is given."""

    probe = NUMBERS

    def fit_baselines(
        self,
        train: Sequence[AnyCleanRow],
        select: Sequence[AnyCleanRow],
        classes: tuple[str, ...],  # noqa: ARG002 - there are none
        *,
        seed: int,
        resamples: int,
        folder: Path,
    ) -> Compared:
        """Fit on ``train`` alone; ``select`` only shows how well it went."""
        mean, tfidf = fit_number_baselines(
            [row.input for row in train],
            [row.target for row in train],
            [row.unit for row in train],
            seed,
        )
        save_number_baselines(mean.baseline, tfidf.baseline, folder)
        texts = [row.input for row in select]
        truth = np.asarray([row.target for row in select], dtype=np.float64)
        groups = clusters_of([row.group for row in select])

        def figures(told: Floats) -> Metrics:
            return score(NumberOutputs(truth, told, {}, groups), resamples, seed).metrics

        return Compared(
            fits=tuple(
                one.report(Metric.RMSE, figures(one.baseline.predict(texts)))
                for one in (mean, tfidf)
            ),
            doubts=doubts(
                tfidf,
                [row.id for row in train],
                lambda rows, told: number_doubts(
                    np.asarray([train[row].target for row in rows], dtype=np.float64), told
                ),
            ),
        )

    def find(self, test: TestRows) -> Findings:
        """Score every test row by the model and by each baseline, in the same order."""
        texts = list(test.rows["text"])
        groups = test.groups
        logits = row_logits(test.model, test.rows, test.collation)
        outputs = NumberOutputs(
            truth=np.asarray(test.rows["label"], dtype=np.float64),
            model=logits[:, 0].astype(np.float64),
            baselines={
                one.name: one.predict(texts) for one in load_number_baselines(test.baselines)
            }
            | ask_probe(test, self.probe).rows,
            groups=None if groups is None else np.unique(groups, return_inverse=True)[1],
        )
        scores = score(outputs, test.run.evaluation.resamples, test.run.training.seed)
        swapped = counterfactuals(test, _answers, logits, np.abs, outputs.groups)
        chosen = spread_over_lengths(test.rows, PROOF_ROWS)
        return Findings(
            scores=replace(
                scores,
                groups=by_group(outputs, test.grouped),
                counterfactuals=swapped.report if swapped else None,
            ),
            predictions=predictions_table(test, outputs, swapped.columns if swapped else {}),
            proof=Proof(
                pipeline=NUMBER_PIPELINE,
                inputs=[texts[place] for place in chosen],
                compare=partial(compare_numbers, outputs.model[chosen]),
                device=test.run.gang.device,
            ),
        )


def _answers(logits: NDArray[np.float32]) -> Answers:
    numbers = logits[:, 0].astype(np.float64)
    return Answers(told=None, values=numbers, columns={"predicted": pa.array(numbers)})


def predictions_table(
    test: TestRows, outputs: NumberOutputs, further: Mapping[str, pa.Array]
) -> pa.Table:
    """Lay out the predictions, a row each: every figure of the report follows from this table.

    Columns: ``row_id``, ``label`` (the true number), ``predicted``, for each baseline
    ``NAME_predicted``, what is ``further`` given, and ``group`` and ``text`` where there are such.
    """
    columns = {"label": pa.array(outputs.truth), "predicted": pa.array(outputs.model)}
    for name, values in outputs.baselines.items():
        columns[f"{name}_predicted"] = pa.array(values)
    return of_rows(test, {**columns, **further}, kept=("text",))
