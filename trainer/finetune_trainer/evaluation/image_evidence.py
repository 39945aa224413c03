"""What a classifier of images is measured by, and compared with.

That is majority, pixels and edges, and a head on the frozen model.
"""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from finetune_api.evaluationreport import Metrics, Mistake
from finetune_api.tasks import Metric
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.data.originals import read_originals
from finetune_trainer.data.pixels import CHANNELS, Pixels
from finetune_trainer.errors import DataError
from finetune_trainer.evaluation.calibration import calibrate
from finetune_trainer.evaluation.class_evidence import class_figures, predictions_table
from finetune_trainer.evaluation.classification import RowOutputs, by_group, score
from finetune_trainer.evaluation.findings import Compared, Findings, TestRows
from finetune_trainer.evaluation.image_baselines import (
    fit_image_baselines,
    load_image_baselines,
    save_image_baselines,
)
from finetune_trainer.evaluation.inference import row_logits
from finetune_trainer.evaluation.metrics import Floats, log_probabilities
from finetune_trainer.evaluation.probe import CLASSES
from finetune_trainer.evaluation.probing import ask_probe
from finetune_trainer.evaluation.search import clusters_of
from finetune_trainer.evaluation.suspects import class_doubts, doubts
from finetune_trainer.models.proof import Pipeline, Proof, compare_classes
from finetune_trainer.training.image_batches import ImageBatches

MOST_MISTAKES = 10


class ImageEvidence:
    """Evidence of a classifier of images; ``ImageRows`` are what it is given."""

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
        majority, pixels = fit_image_baselines(
            _Stored(train), labels, [row.unit for row in train], seed
        )
        save_image_baselines(majority.baseline, pixels.baseline, folder)
        truth = np.asarray([numbers[row.target] for row in select])
        groups = clusters_of([row.group for row in select])

        def figures(probabilities: Floats) -> Metrics:
            return class_figures(classes, truth, probabilities, groups, resamples, seed)

        headline = Metric.ACCURACY
        return Compared(
            fits=(
                majority.report(headline, figures(majority.baseline.predict_proba(select))),
                pixels.report(headline, figures(pixels.baseline.predict_proba(_Stored(select)))),
            ),
            doubts=doubts(
                pixels,
                [row.id for row in train],
                lambda rows, told: class_doubts(classes, labels[rows], told),
            ),
        )

    def find(self, test: TestRows) -> Findings:
        """Score every test row by the model and by each baseline, in the same order."""
        majority, pixels = load_image_baselines(test.baselines)
        groups = test.groups
        outputs = RowOutputs(
            names=test.prepared.labels,
            labels=np.asarray(test.rows["label"], dtype=np.int64),
            logits=row_logits(test.model, test.rows, test.collation),
            baselines={
                majority.name: majority.predict_proba(test.rows),
                pixels.name: pixels.predict_proba(_prepared(test)),
            }
            | ask_probe(test, self.probe).rows,
            groups=None if groups is None else np.unique(groups, return_inverse=True)[1],
        )
        originals = read_originals(test.folder)
        places = {row_id: place for place, row_id in enumerate(test.ids)}
        if not originals.keys() <= places.keys():
            raise DataError(f"{test.folder}: its images are not of its rows; prepare again")
        chosen = [places[row_id] for row_id in originals]
        probabilities = np.exp(log_probabilities(outputs.logits))
        select = row_logits(test.model, test.select, test.collation)
        select_labels = np.asarray(test.select["label"], dtype=np.int64)
        scores = score(outputs, test.run.evaluation.resamples, test.run.training.seed)
        return Findings(
            scores=replace(
                scores,
                groups=by_group(outputs, test.grouped),
                calibration=calibrate(select, select_labels, outputs.logits, outputs.labels),
            ),
            predictions=predictions_table(test, outputs, kept=()),
            proof=Proof(
                # All classes: without a number the pipeline tells the first five.
                pipeline=Pipeline(
                    task="image-classification", call={"top_k": len(test.prepared.labels)}
                ),
                inputs=[base64.b64encode(image).decode() for image in originals.values()],
                compare=partial(compare_classes, outputs.names, probabilities[chosen]),
                device=test.run.gang.device,
            ),
            mistakes=surest_mistakes(test.ids, outputs, probabilities),
        )


def surest_mistakes(
    ids: Sequence[str], outputs: RowOutputs, probabilities: Floats
) -> tuple[Mistake, ...]:
    """The rows that were taken for another class with the highest probability."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != outputs.labels)
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")]
    return tuple(
        Mistake(
            row_id=ids[place],
            truth=outputs.names[outputs.labels[place]],
            predicted=outputs.names[predicted[place]],
            probability=min(1.0, float(probabilities[place, predicted[place]])),
        )
        for place in surest[:MOST_MISTAKES].tolist()
    )


class _Stored(Sequence[Pixels]):
    """The images of rows that are being prepared, each read from disk when it is asked for."""

    def __init__(self, rows: Sequence[AnyCleanRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    # A slice is never asked for.
    def __getitem__(self, place: int) -> Pixels:  # type: ignore[override]
        image = self._rows[place].input
        form = image.store.form
        flat = np.frombuffer(image.pixels(), dtype=np.uint8)
        return flat.reshape(CHANNELS, form.height, form.width)


def _prepared(test: TestRows) -> Iterator[Pixels]:
    """The images of the test rows, in their order."""
    assert isinstance(test.collation, ImageBatches)
    rows: Dataset = test.rows.select_columns(["pixels"])
    for row in rows:
        yield test.collation.pixels([row["pixels"]])[0]
