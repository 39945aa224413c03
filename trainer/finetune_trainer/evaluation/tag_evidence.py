"""What a tagger of words is measured by, and compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from finetune_api.evaluationreport import Metrics
from finetune_api.tasks import Metric
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.data.tagged import OUTSIDE
from finetune_trainer.evaluation.class_evidence import PROOF_ROWS, spread_over_lengths
from finetune_trainer.evaluation.findings import Compared, Findings, TestRows
from finetune_trainer.evaluation.inference import (
    Places,
    batches_by_length,
    require_finite,
    score_rows,
)
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.search import clusters_of
from finetune_trainer.evaluation.spans import Told, finding_for, spans_of_plain
from finetune_trainer.evaluation.tables import of_rows
from finetune_trainer.evaluation.tag_baselines import (
    fit_taggers,
    load_taggers,
    save_taggers,
)
from finetune_trainer.evaluation.tagging import TagOutputs, by_group, score
from finetune_trainer.models.proof import Pipeline, Proof, TokenAnswer, compare_tags
from finetune_trainer.training.rows import NO_TAG, Batch, PreparedRows

WORDS_PIPELINE = Pipeline(
    task="token-classification",
    settings={"ignore_labels": []},
    call={"is_split_into_words": True},
)


class TagEvidence:
    """Evidence of a tagger; ``TagRows`` are what it is given."""

    probe = None

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
        finding = finding_for(classes)
        majority, features = fit_taggers(
            [row.input for row in train],
            [row.target for row in train],
            [row.unit for row in train],
            finding,
            seed,
        )
        save_taggers(majority.baseline, features.baseline, folder)
        words, truth = [row.input for row in select], [row.target for row in select]
        groups = clusters_of([row.group for row in select])

        def figures(told: Sequence[Told]) -> Metrics:
            outputs = TagOutputs(
                truth=truth, told=(told,), baselines=(), finding=finding, groups=groups
            )
            return score(outputs, resamples, seed).metrics

        return Compared(
            fits=tuple(
                one.report(Metric.MICRO_F1, figures(one.baseline.tag(words)))
                for one in (majority, features)
            )
        )

    def find(self, test: TestRows) -> Findings:
        """Score every test row by the model and by each baseline, in the same order."""
        words = [tuple(row) for row in test.rows["words"]]
        answers = _answers(test)
        taggers = load_taggers(test.baselines)
        groups = test.groups
        outputs = TagOutputs(
            truth=[_named(test, row) for row in test.rows["word_tags"]],
            told=(_told(test, answers), *(tagger.tag(words) for tagger in taggers)),
            baselines=tuple(tagger.name for tagger in taggers),
            nll=answers.nll,
            read=np.asarray([len(tags) for tags in answers.tags], dtype=np.int64),
            finding=finding_for(test.prepared.labels),
            groups=None if groups is None else np.unique(groups, return_inverse=True)[1],
        )
        scores = score(outputs, test.run.evaluation.resamples, test.run.training.seed)
        return Findings(
            scores=replace(scores, groups=by_group(outputs, test.grouped)),
            predictions=predictions_table(test, outputs, answers),
            proof=_proof(test, answers),
        )


@dataclass(frozen=True)
class WordAnswers:
    """What the model says of the words that it reads of each row, in their order.

    Its first choice, ``tags``, and their ``probabilities``; ``nll`` is summed over the true tags,
    in nats, ``[n]``.
    """

    tags: Sequence[Integers]
    probabilities: Sequence[Floats]
    nll: Floats


def _answers(test: TestRows) -> WordAnswers:
    count = len(test.rows)
    tags: list[Integers] = [np.zeros(0, dtype=np.int64)] * count
    probabilities: list[Floats] = [np.zeros(0)] * count
    nll = np.zeros(count)

    def take(places: Places, batch: Batch, outputs: Any) -> None:
        scores = torch.log_softmax(outputs.logits.double(), dim=-1).cpu()
        for place, own, labels in zip(places.tolist(), scores, batch["labels"], strict=True):
            read = labels != NO_TAG
            best = own[read].max(dim=-1)
            tags[place], probabilities[place] = best.indices.numpy(), best.values.exp().numpy()
            nll[place] = -float(own[read].gather(1, labels[read][:, None]).sum())

    rows = PreparedRows(test.rows, test.collation)
    score_rows(test.model, rows, batches_by_length(rows.lengths), take)
    require_finite(test.rows, np.isfinite(nll))
    return WordAnswers(tags, probabilities, nll)


def _told(test: TestRows, answers: WordAnswers) -> list[Told]:
    """The model's tag of each word.

    Of a word that it does not read a pipeline tells nothing: it counts as outside, and where tags
    are plain as wrong.
    """
    names = test.prepared.labels
    unread = None if finding_for(names) is spans_of_plain else OUTSIDE
    told: list[Told] = []
    for words, read, tags in zip(
        test.rows["words"], test.rows["words_read"], answers.tags, strict=True
    ):
        row: list[str | None] = [unread] * len(words)
        for word, tag in zip(read, tags.tolist(), strict=True):
            row[word] = names[tag]
        told.append(row)
    return told


def _named(test: TestRows, tags: Sequence[int]) -> list[str]:
    return [test.prepared.labels[tag] for tag in tags]


def predictions_table(test: TestRows, outputs: TagOutputs, answers: WordAnswers) -> pa.Table:
    """Lay out the predictions, a row each: every figure of the report follows from this table.

    Columns: ``row_id``, ``tags`` and ``predicted`` (a name for each word; unset where tags are
    plain and the word is not read), ``words_read`` (their numbers), ``probabilities`` (of the
    predicted tags of those words), ``nll`` (summed over those words, nats), for each baseline
    ``NAME_predicted``, and ``group`` and ``words`` where there are such.
    """
    names = pa.list_(pa.string())
    columns = {
        "tags": pa.array(outputs.truth, names),
        "predicted": pa.array(outputs.told[0], names),
        "words_read": pa.array(list(test.rows["words_read"]), pa.list_(pa.int32())),
        "probabilities": pa.array(list(answers.probabilities), pa.list_(pa.float64())),
        "nll": pa.array(answers.nll),
    }
    for name, told in zip(outputs.baselines, outputs.told[1:], strict=True):
        columns[f"{name}_predicted"] = pa.array(told, names)
    return of_rows(test, columns, kept=("words",))


def _proof(test: TestRows, answers: WordAnswers) -> Proof:
    chosen = spread_over_lengths(test.rows, PROOF_ROWS)
    expected = []
    for place in chosen:
        first_tokens = np.flatnonzero(np.asarray(test.rows[place]["tags"]) != NO_TAG)
        told = zip(
            first_tokens.tolist(),
            _named(test, answers.tags[place].tolist()),
            answers.probabilities[place].tolist(),
            strict=True,
        )
        expected.append([TokenAnswer(*one) for one in told])
    return Proof(
        pipeline=WORDS_PIPELINE,
        inputs=[test.rows[place]["words"] for place in chosen],
        compare=partial(compare_tags, expected),
        device=test.run.gang.device,
    )
