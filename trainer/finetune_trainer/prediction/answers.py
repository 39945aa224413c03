"""What a finished model answers to rows, by its head: read a row, encode it, and say what it is.

Rows are scored in batches of like length, and the answers of a plain pipeline come out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.data.encoding import encode_texts
from finetune_trainer.data.tag_encoding import encode_words
from finetune_trainer.data.tagged import OUTSIDE, words_in
from finetune_trainer.data.values import Values, text_in
from finetune_trainer.errors import DataError, UsageError
from finetune_trainer.evaluation.continuations import continued, prompt_ids
from finetune_trainer.evaluation.multilabel import THRESHOLD
from finetune_trainer.evaluation.spans import finding_for, spans_of_iob2
from finetune_trainer.models.check import check_config, load_tokenizer, usable_positions
from finetune_trainer.models.export import MANIFEST, changed_since_export
from finetune_trainer.models.fit import few
from finetune_trainer.models.heads import Head
from finetune_trainer.models.load import load_weights
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.rows import Padding, padded_inputs

Answer = dict[str, Any]
"""A row's answer, as JSON has it."""

_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Asked:
    """A row as the model reads it: the columns of one example; ``given`` is what was asked."""

    columns: Mapping[str, Sequence[int]]
    given: Any
    is_cut: bool = False
    words: tuple[int, ...] = ()
    places: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.columns["input_ids"])


class Answerer(Protocol):
    """A model of one head, and how it is asked."""

    @property
    def column(self) -> str:
        """What it is asked about."""

    def read(self, values: Values, where: str) -> Asked:
        """Make of a row what the model reads.

        Raises
        ------
        DataError
            If the row is none for this model; the message begins with ``where``.
        """

    def answer(self, batch: Sequence[Asked]) -> list[Answer]:
        """The answers to a batch, in its order."""


@dataclass(frozen=True)
class Finished:
    """A model as a job exported it, ready to be asked."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def labels(self) -> list[str]:
        """Names of its outputs, in their order."""
        return [name for _, name in sorted((self.model.config.id2label or {}).items())]

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Probabilities from which labels are told, where the job chose such."""
        return getattr(self.model.config, "thresholds", None) or {}

    def logits(self, batch: Sequence[Asked]) -> torch.Tensor:
        """Outputs of a batch, in double precision on the CPU."""
        columns = {name: [one.columns[name] for one in batch] for name in batch[0].columns}
        padding = Padding(pad_token_id=int(self.tokenizer.pad_token_id))
        inputs = padded_inputs(columns, padding)
        with torch.inference_mode():
            outputs = self.model(
                **{name: values.to(self.model.device) for name, values in inputs.items()}
            )
        made: torch.Tensor = outputs.logits.double().cpu()
        return made


@dataclass(frozen=True)
class TextAnswerer:
    """One class, several labels or a number for each text."""

    finished: Finished
    column: str

    def read(self, values: Values, where: str) -> Asked:
        """Encode the text."""
        text = text_in(values, self.column, where)
        if not text.strip():
            raise DataError(
                f"{where}: no text in column {self.column!r}; write one, or name another"
            )
        (one,) = encode_texts([text], self.finished.tokenizer, self.finished.max_length)
        return Asked(one.example, text, is_cut=one.is_cut)

    def answer(self, batch: Sequence[Asked]) -> list[Answer]:
        """A class with its probability and those of all; all labels told; or a number."""
        logits, labels = self.finished.logits(batch), self.finished.labels
        kind = self.finished.model.config.problem_type
        if kind == "regression":
            return [{"value": float(row[0])} for row in logits]
        several = kind == "multi_label_classification"
        cuts = self.finished.thresholds
        shares = logits.sigmoid() if several else logits.softmax(dim=-1)
        answers: list[Answer] = []
        for row in shares.tolist():
            scores = dict(zip(labels, row, strict=True))
            if several:
                told: Answer = {
                    "labels": [one for one in labels if scores[one] >= cuts.get(one, THRESHOLD)]
                }
            else:
                best = _likeliest(scores, cuts)
                told = {"label": best, "score": scores[best]}
            answers.append({**told, "scores": scores})
        return answers


def _likeliest(scores: Mapping[str, float], cuts: Mapping[str, float]) -> str:
    """The class that is told: of two, the one with a threshold from there on, else the other."""
    for label, cut in cuts.items():
        (other,) = scores.keys() - {label}
        return label if scores[label] >= cut else other
    return max(scores, key=lambda label: scores[label])


@dataclass(frozen=True)
class TagAnswerer:
    """A tag for each word."""

    finished: Finished
    column: str

    def read(self, values: Values, where: str) -> Asked:
        """Encode the words."""
        words = words_in(values, self.column, where)
        if not " ".join(words).strip():
            raise DataError(f"{where}: no words in column {self.column!r}; write a list of them")
        (one,) = encode_words([words], self.finished.tokenizer, self.finished.max_length)
        length = len(one.columns["input_ids"])
        return Asked(one.columns, words, one.tokens > length, one.words, one.places)

    def answer(self, batch: Sequence[Asked]) -> list[Answer]:
        """Tags and their probabilities, unset for words that are not read, and spans if tags do."""
        shares = self.finished.logits(batch).softmax(dim=-1)
        return [self._told(one, row) for one, row in zip(batch, shares, strict=True)]

    def _told(self, one: Asked, shares: torch.Tensor) -> Answer:
        labels = self.finished.labels
        marks_spans = finding_for(labels) is spans_of_iob2
        tags: list[str | None] = [OUTSIDE if marks_spans else None] * len(one.given)
        scores: list[float | None] = [None] * len(one.given)
        best = shares.max(dim=-1)
        for word, place in zip(one.words, one.places, strict=True):
            tags[word] = labels[int(best.indices[place])]
            scores[word] = float(best.values[place])
        told: Answer = {"tags": tags, "scores": scores}
        if marks_spans:
            spans = sorted(spans_of_iob2(tags))
            told["spans"] = [
                {"type": kind, "start": start, "end": end, "words": list(one.given[start:end])}
                for start, end, kind in spans
            ]
        return told


@dataclass(frozen=True)
class TextGenerator:
    """A continuation of each text, prompt or chat, one at a time, greedily."""

    finished: Finished
    column: str
    max_new_tokens: int

    def read(self, values: Values, where: str) -> Asked:
        """Encode what is asked: a text, or messages, which end before the answer."""
        given = values.get(self.column)
        if not isinstance(given, str | list) or not given:
            raise DataError(
                f"{where}: column {self.column!r} holds neither a text nor a list of messages"
            )
        if isinstance(given, str):
            text_in(values, self.column, where)
        ids = prompt_ids(given, self.finished.tokenizer)
        if not ids:
            raise DataError(f"{where}: column {self.column!r} can't be asked by the chat template")
        if len(ids) >= self.finished.max_length:
            raise DataError(
                f"{where}: {len(ids)} tokens leave no room for an answer within the model's "
                f"{self.finished.max_length}; shorten it"
            )
        return Asked({"input_ids": ids}, given)

    def answer(self, batch: Sequence[Asked]) -> list[Answer]:
        """The texts."""
        decode = self.finished.tokenizer.decode
        made = (
            continued(self.finished.model, one.columns["input_ids"], self.max_new_tokens)
            for one in batch
        )
        return [{"text": decode(list(ids), skip_special_tokens=True)} for ids in made]


def head_of(folder: Path) -> Head:
    """The head of an exported model, by its own configuration.

    Raises
    ------
    UsageError
        If it is no whole model, or one of no task that answers to rows of text.
    """
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"{folder}: an adapter, which answers nothing without its base model; export with "
            "model.lora.output: merged"
        )
    try:
        stated = json.loads((folder / "config.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder}: not a model's folder: it has no config.json") from None
    except ValueError:
        raise UsageError(f"{folder}: config.json is not valid JSON") from None
    if not isinstance(stated, dict):
        raise UsageError(f"{folder}: config.json is not that of a model")
    name = next(iter(stated.get("architectures") or ()), "")
    for form in FORMS.values():
        head = form.head
        same_kind = head.problem_type in (None, stated.get("problem_type"))
        if name.endswith(head.suffix) and same_kind:
            return head
    raise UsageError(
        f"{folder}: {name or 'its architecture'} has no head of a task on texts; take a model that "
        "a job exported"
    )


def answerer_for(folder: Path, column: str | None, max_new_tokens: int | None) -> Answerer:
    """Load an exported model; ``column`` is that of the rows which it is asked about.

    Raises
    ------
    UsageError
        If the folder holds no such model, or not the one that was exported.
    """
    head = head_of(folder)
    if max_new_tokens is not None and not head.generates:
        raise UsageError(
            f"--max-new-tokens: goes with a language model, and {folder} is one of "
            f"{head.task.value}; leave it out"
        )
    _require_unchanged(folder)
    config = check_config(folder, str(folder), head)
    tokenizer = load_tokenizer(folder, str(folder), of_words=head.reads_words)
    model, lacking = load_weights(folder, str(folder), config, head)
    if lacking:
        raise UsageError(
            f"{folder}: {len(lacking)} weights are missing or of another shape than config.json "
            f"says ({few(lacking)}); take a model that a job exported"
        )
    model.train(mode=False)
    positions = usable_positions(config) or tokenizer.model_max_length
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # type: ignore[arg-type]  # transformers' own signature wants a device
    finished = Finished(model, tokenizer, int(min(positions, tokenizer.model_max_length)))
    if head.generates:
        return TextGenerator(finished, column or "prompt", max_new_tokens or _MAX_NEW_TOKENS)
    if head.reads_words:
        return TagAnswerer(finished, column or "tokens")
    return TextAnswerer(finished, column or "text")


def _require_unchanged(folder: Path) -> None:
    """What a job exported is asked as it was proved, and not with a bit turned over."""
    changed = changed_since_export(folder)
    if changed:
        raise UsageError(
            f"{folder}: not as the job exported it, by {MANIFEST}: {few(changed)} changed or "
            f"missing; copy the model anew, or remove {MANIFEST} to ask it as it is"
        )
