"""What a language model is measured by, and compared with: the model that it was before."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_api.evaluationreport import BaselineScores, Generation, Metrics
from finetune_api.report import PASSAGE_CHARACTERS
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.evaluation.continuations import (
    Asked,
    asked,
    chosen_rows,
    continued,
    prompt_ids,
)
from finetune_trainer.evaluation.findings import Compared, Findings, TestRows
from finetune_trainer.evaluation.language_scores import (
    LanguageFigures,
    LanguageOutputs,
    by_group,
    language_score,
)
from finetune_trainer.evaluation.likelihood import RowLikelihoods, row_likelihoods
from finetune_trainer.evaluation.metrics import Integers
from finetune_trainer.evaluation.scores import Scores
from finetune_trainer.evaluation.tables import of_rows
from finetune_trainer.evaluation.untuned import before_tuning
from finetune_trainer.models.check import usable_positions
from finetune_trainer.models.proof import Pipeline, Proof, compare_texts
from finetune_trainer.training.language_rows import TOKEN_WEIGHTS, LanguageBatches

ANSWERED_ROWS = 16
"""Test rows that the model and its base are asked to answer."""

PROOF_ROWS = 4
PROOF_TOKENS = 64
_BYTES_CHUNK = 512


@dataclass(frozen=True)
class _Answers:
    """What a model says of all test rows, and what it answers to some."""

    likelihoods: RowLikelihoods
    texts: tuple[str, ...]


class LanguageEvidence:
    """Evidence of a language model; ``TokenRow`` are what it is given."""

    probe = None

    def fit_baselines(
        self,
        train: Sequence[AnyCleanRow],  # noqa: ARG002 - the protocol's
        select: Sequence[AnyCleanRow],  # noqa: ARG002
        classes: tuple[str, ...],  # noqa: ARG002
        *,
        seed: int,  # noqa: ARG002
        resamples: int,  # noqa: ARG002
        folder: Path,  # noqa: ARG002
    ) -> Compared:
        """Nothing is fitted: what it is compared with is the untuned model."""
        return Compared()

    def find(self, test: TestRows) -> Findings:
        """Score every test row by the model and by its base, and have both answer some."""
        places = chosen_rows(len(test.rows), ANSWERED_ROWS)
        questions = [_asked(test.rows, place) for place in places]
        model = _answers(test, test.model, questions)
        proof = _proof(test, places)
        with before_tuning(test) as base:
            untuned = _answers(test, base, questions)
        generations = tuple(
            Generation(
                row_id=test.ids[place],
                asked=_text(test.tokenizer, question.prompt, special=True)[-PASSAGE_CHARACTERS:],
                expected=_text(test.tokenizer, question.answer, special=True)[:PASSAGE_CHARACTERS],
                answered=ours[:PASSAGE_CHARACTERS],
                untuned=theirs[:PASSAGE_CHARACTERS],
            )
            for place, question, ours, theirs in zip(
                places, questions, model.texts, untuned.texts, strict=True
            )
        )
        outputs = LanguageOutputs(
            model=model.likelihoods,
            base=untuned.likelihoods,
            text_bytes=_text_bytes(test),
            groups=None if test.groups is None else np.unique(test.groups, return_inverse=True)[1],
        )
        return Findings(
            scores=replace(_scores(outputs, test), groups=by_group(outputs, test.grouped)),
            predictions=_table(test, outputs),
            proof=proof,
            generations=generations if test.run.evaluation.keep_predictions else (),
        )


def _asked(rows: Dataset, place: int) -> Asked:
    row = rows[place]
    return asked(row["input_ids"], row[TOKEN_WEIGHTS])


def _answers(test: TestRows, model: PreTrainedModel, questions: Sequence[Asked]) -> _Answers:
    assert isinstance(test.collation, LanguageBatches)
    return _Answers(
        likelihoods=row_likelihoods(model, test.rows, test.collation),
        texts=tuple(
            _text(test.tokenizer, continued(model, one.prompt, one.room), special=True)
            for one in questions
        ),
    )


def _scores(outputs: LanguageOutputs, test: TestRows) -> Scores:
    found = language_score(outputs, test.run.evaluation.resamples, test.run.training.seed)
    untuned = BaselineScores(
        name=Baseline.UNTUNED,
        metrics=_metrics(found.base),
        error_reduction=found.error_reduction,
    )
    return Scores(metrics=_metrics(found.model), baselines=(untuned,))


def _metrics(figures: LanguageFigures) -> Metrics:
    found = {
        Metric.PERPLEXITY: figures.perplexity,
        Metric.BITS_PER_BYTE: figures.bits_per_byte,
        Metric.TOKEN_ACCURACY: figures.token_accuracy,
        Metric.LOSS: figures.loss,
    }
    return {metric: value for metric, value in found.items() if value is not None}


def _table(test: TestRows, outputs: LanguageOutputs) -> pa.Table:
    """The sums of each row: every figure of the report follows from this table.

    Columns: ``row_id``, ``tokens`` and ``bytes`` that count, ``nll`` (nats) and ``right`` of the
    model, ``untuned_nll`` and ``untuned_right`` of its base, and ``group`` and ``asked`` (JSON)
    where there are such.
    """
    columns = {
        "tokens": pa.array(outputs.model.tokens),
        "bytes": pa.array(outputs.text_bytes),
        "nll": pa.array(outputs.model.nll),
        "right": pa.array(outputs.model.right),
        "untuned_nll": pa.array(outputs.base.nll),
        "untuned_right": pa.array(outputs.base.right),
    }
    return of_rows(test, columns, kept=("asked",))


def _text_bytes(test: TestRows) -> Integers:
    """Size of the text that each row's counted tokens stand for, in UTF-8."""
    sizes: list[int] = []
    for start in range(0, len(test.rows), _BYTES_CHUNK):
        chunk = test.rows[start : start + _BYTES_CHUNK]
        for ids, weights in zip(chunk["input_ids"], chunk[TOKEN_WEIGHTS], strict=True):
            counted = [one for one, weight in zip(ids, weights, strict=True) if weight > 0]
            sizes.append(len(_text(test.tokenizer, counted).encode()))
    return np.asarray(sizes, dtype=np.int64)


def _proof(test: TestRows, places: Sequence[int]) -> Proof:
    """What a plain pipeline has to answer for some rows: text for text what the model does."""
    inputs = [json.loads(test.rows[place]["asked"]) for place in places]
    asked = [(one, prompt_ids(one, test.tokenizer)) for one in inputs]
    # The shortest have room to be answered; a truncated row's question may have none.
    chosen = sorted((pair for pair in asked if pair[1]), key=lambda pair: len(pair[1]))[:PROOF_ROWS]
    longest = max((len(ids) for _, ids in chosen), default=0)
    positions = usable_positions(test.model.config) or longest + PROOF_TOKENS
    room = max(1, min(PROOF_TOKENS, positions - longest))
    answers = [_text(test.tokenizer, continued(test.model, ids, room)) for _, ids in chosen]
    return Proof(
        pipeline=Pipeline(
            task="text-generation",
            call={"do_sample": False, "max_new_tokens": room, "return_full_text": False},
        ),
        inputs=[one for one, _ in chosen],
        compare=partial(compare_texts, answers),
        device=test.run.gang.device,
    )


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: bool = False) -> str:
    """Token ids as text, with or without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=not special))
