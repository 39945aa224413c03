"""Rows of language data: how they are read, rendered before they get their roles, and written down.

Used by the causal-lm task. A row is an ``Example`` while it is cleaned, and a ``TokenRow`` from
then on: which rows are kept depends on what their tokens are.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from finetune_api.dataset import Columns
from finetune_api.run import Run
from finetune_api.training import Truncation
from finetune_trainer.data.chat_template import require_chat_template
from finetune_trainer.data.cleaning import (
    ANSWER_CUT,
    CROSSING,
    MOST_DROPPED_PERCENT,
    NO_ANSWER,
    NO_TEXT,
    NOT_LEARNED,
    TOO_LONG,
    Counts,
)
from finetune_trainer.data.encoding import Column, EncodedRow
from finetune_trainer.data.examples import (
    Example,
    language_columns,
    read_example,
    with_texts,
)
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.data.rendered_rows import MOST_ROWS, rendered_text
from finetune_trainer.data.rendering import Rendered, Renderer
from finetune_trainer.data.rows import CleanRow, input_key
from finetune_trainer.data.text_likeness import TextLikeness
from finetune_trainer.data.values import Values
from finetune_trainer.errors import DataError
from finetune_trainer.models.generation import read_settings, stop_ids
from finetune_trainer.models.processors import tokens_of


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TokenRow:
    """A row as the model reads it, whole or cut.

    ``weights`` are its tokens' in the loss, the first one's 0; ``length`` counts its tokens before
    the cut. ``asked`` is what a pipeline would be asked for its last answer, as JSON.
    """

    ids: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    length: int
    asked: str

    @property
    def rendered(self) -> Rendered:
        """The row in the form in which people are shown it."""
        return Rendered(ids=tuple(self.ids.tolist()), weights=tuple(self.weights.tolist()))


class ExampleRows:
    """Rows of language data, whose target is what is answered; they are counted in no classes."""

    fewest_classes = 0
    holds_text = True
    faults: Sequence[str] = (NO_TEXT,)
    holds_markup = False
    no_target = NO_ANSWER
    has_one_target = False
    mending = None

    def columns(self, columns: Columns) -> Mapping[str, str]:
        """Those of the form that the manifest names: text, prompt and completion, or messages."""
        return language_columns(columns)

    def read(self, values: Values, columns: Columns, where: str) -> tuple[Example, str | None]:
        """Read an example; one that teaches nothing has no answer."""
        example = read_example(values, columns, where)
        return example, example.answer if example.teaches else None

    def fault_of(self, given: Example) -> str | None:
        """A row that asks nothing can't be learned from."""
        return None if given.question.strip() else NO_TEXT

    def text_of(self, given: Example) -> str:
        """What is asked, or the whole of a text."""
        return given.question

    def prose_of(self, given: Example) -> str:
        """What is asked, or the whole of a text."""
        return given.prose

    def likeness(self, rows: Sequence[AnyCleanRow]) -> TextLikeness:
        """By the words."""
        return TextLikeness([row.words for row in rows])

    def with_texts(self, given: Example, change: Callable[[str], str]) -> Example:
        """The example with each of its texts changed."""
        return with_texts(given, change)

    def mended(self, target: str) -> str:
        """As it is."""
        return target

    def needed(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """None are."""
        return classes

    def classes_of(self, target: str) -> tuple[str, ...]:  # noqa: ARG002 - a form's signature
        """None."""
        return ()

    def measured(self, targets: Sequence[str]) -> None:  # noqa: ARG002 - as above
        """Answers are no numbers."""
        return

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG002 - as above
        """A language model's outputs are its tokens; they have no names of the data's."""
        return ()


@dataclass(frozen=True)
class LanguageRendering:
    """Tokenizes examples, within a length; more than ``most_dropped_percent`` lost is an error."""

    renderer: Renderer
    max_length: int
    truncation: Truncation
    most_dropped_percent: int

    @classmethod
    def of(cls, model: Path, tokenizer: PreTrainedTokenizerBase, run: Run) -> "LanguageRendering":
        """Render for a model's folder and a run.

        Raises
        ------
        UsageError
            If the model's tokenizer, its chat template or its generation settings are unfit.
        """
        uri, most = run.model.uri, run.dataset.max_dropped_percent
        if run.dataset.columns.messages is not None:
            require_chat_template(tokenizer, uri)
        return cls(
            renderer=Renderer(tokenizer, uri, stop_ids(read_settings(model, uri), tokenizer)),
            max_length=tokens_of(run),
            truncation=run.training.truncation or Truncation.DROP,
            most_dropped_percent=MOST_DROPPED_PERCENT if most is None else most,
        )

    def render(
        self, rows: Sequence[CleanRow[Example, str]], counts: Counts
    ) -> list[CleanRow[TokenRow, str]]:
        """Tokenize rows; those that are too long by the policy or teach nothing are left out.

        Raises
        ------
        DataError
            If a chat template can't be verified on a row, or more rows are left out than may be.
        """
        counts.open(CROSSING, TOO_LONG, ANSWER_CUT, NOT_LEARNED)
        made = ((row, self._rendered(row, counts)) for row in rows)
        kept = [_with_tokens(row, one) for row, one in made if one is not None]
        _check_dropped(len(rows), len(kept), counts, self.most_dropped_percent)
        return kept

    def shown(self, rows: Sequence[CleanRow[TokenRow, str]]) -> str:
        """Some rows with what is learned of them, spread over all."""
        places = np.unique(np.linspace(0, len(rows) - 1, MOST_ROWS).astype(np.int64))
        chosen = [rows[int(place)] for place in places]
        return rendered_text(
            [(row.id, row.input.rendered) for row in chosen], self.renderer.tokenizer
        )

    def _rendered(self, row: CleanRow[Example, str], counts: Counts) -> TokenRow | None:
        whole = self.renderer.render(row.input, f"row {row.id}")
        if whole.crossing:
            counts.note(CROSSING, row.id)
        rendered = self.renderer.shortened(whole, self.max_length, self.truncation)
        if rendered is None:
            counts.note(TOO_LONG, row.id)
            return None
        if rendered.learned == 0:
            counts.note(NOT_LEARNED, row.id)
            return None
        if rendered.learned < whole.learned:
            counts.note(ANSWER_CUT, row.id)
        weights = np.asarray(rendered.weights, dtype=np.float32)
        weights[0] = 0
        return TokenRow(
            ids=np.asarray(rendered.ids, dtype=np.int32),
            weights=weights,
            length=len(whole.ids),
            asked=json.dumps(row.input.asked, ensure_ascii=False),
        )


def _with_tokens(row: CleanRow[Example, str], made: TokenRow) -> CleanRow[TokenRow, str]:
    """The row as it was read, with a key for its answer: that is for finding copies of it."""
    return CleanRow(
        id=row.id,
        input=made,
        target=input_key(row.target).hex(),
        classes=(),
        group=row.group,
        key=row.key,
        groups=row.groups,
        words=row.words,
        language=row.language,
    )


def _check_dropped(rows: int, kept: int, counts: Counts, most: int) -> None:
    if kept and 100 * (rows - kept) <= most * rows:
        return
    told = "; ".join(
        f"{counts.rows[step]} {step} (rows {', '.join(counts.examples[step][:5])})"
        for step in (TOO_LONG, NOT_LEARNED)
        if counts.rows[step]
    )
    raise DataError(
        f"dataset: {rows - kept} of {rows} rows would be left out, more than {most} %: {told}; "
        "raise training.maxLength, set training.truncation, or allow it with "
        "dataset.maxDroppedPercent"
    )


@dataclass(frozen=True)
class TokenEncoder:
    """Writes tokenized rows down as they are."""

    @property
    def features(self) -> Mapping[str, Column]:
        """Tokens, their weights, and the sum of these."""
        from datasets import List, Value

        return {
            "input_ids": List(Value("int32")),
            "token_weights": List(Value("float32")),
            "weight": Value("float64"),
        }

    @property
    def kept_features(self) -> Mapping[str, Column]:
        """What a pipeline is asked for the row's answer."""
        from datasets import Value

        return {"asked": Value("string")}

    def encode(self, rows: Sequence[CleanRow[TokenRow, str]]) -> Iterator[EncodedRow]:
        """One example each."""
        for row in rows:
            made = row.input
            example = {
                "input_ids": made.ids,
                "token_weights": made.weights,
                "weight": float(made.weights.sum(dtype=np.float64)),
            }
            yield EncodedRow(
                example=example,
                tokens=made.length,
                is_cut=made.length > len(made.ids),
                learned=int((made.weights > 0).sum()),
            )

    def kept(self, row: CleanRow[TokenRow, str]) -> Mapping[str, Column]:
        """What a pipeline is asked."""
        return {"asked": row.input.asked}
