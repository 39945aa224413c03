"""Rows of one text each, with a class, several labels or a number.

Used by the tasks on whole texts.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from finetune_api.datareport import TargetStatistics
from finetune_api.dataset import Columns
from finetune_trainer.data.cleaning import NO_LABEL, NO_TEXT
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.data.text_likeness import TextLikeness
from finetune_trainer.data.values import Values, name_in, names_in, number_in, text_in
from finetune_trainer.errors import DataError

_LARGEST = 1e30
"""A model's weights, which give the data's own numbers in the end, are in fp32."""


class TextRows:
    """What every row has whose input is one text; the target is for others to read."""

    holds_text = True
    faults: Sequence[str] = (NO_TEXT,)
    holds_markup = True
    no_target = NO_LABEL
    has_one_target = True
    mending = None

    def needed(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """All of them."""
        return classes

    def columns(self, columns: Columns) -> Mapping[str, str]:
        """Text and label."""
        return {"text": columns.text, "label": columns.label}

    def fault_of(self, given: str) -> str | None:
        """Nothing but white space is no text."""
        return None if given.strip() else NO_TEXT

    def text_of(self, given: str) -> str:
        """The text itself."""
        return given

    def prose_of(self, given: str) -> str:
        """The text itself."""
        return given

    def likeness(self, rows: Sequence[AnyCleanRow]) -> TextLikeness:
        """By the words."""
        return TextLikeness([row.words for row in rows])

    def with_texts(self, given: str, change: Callable[[str], str]) -> str:
        """The text, changed."""
        return change(given)


class ClassRows(TextRows):
    """A text and its class."""

    fewest_classes = 2

    def read(self, values: Values, columns: Columns, where: str) -> tuple[str, str | None]:
        """Read both; a row without a label has an empty one."""
        text = text_in(values, columns.text, where)
        return text, name_in(values, columns.label, where) or None

    def mended(self, target: str) -> str:
        """As it is."""
        return target

    def classes_of(self, target: str) -> tuple[str, ...]:
        """Its one class."""
        return (target,)

    def measured(self, targets: Sequence[str]) -> None:  # noqa: ARG002 - as the form has it
        """Classes are no numbers."""
        return

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """One output per class."""
        return classes


class LabelRows(TextRows):
    """A text and all labels that it has, which may be none."""

    fewest_classes = 2

    def read(
        self, values: Values, columns: Columns, where: str
    ) -> tuple[str, tuple[str, ...] | None]:
        """Read both; a row whose column is unset, and not only empty, has no target."""
        return text_in(values, columns.text, where), names_in(values, columns.label, where)

    def mended(self, target: tuple[str, ...]) -> tuple[str, ...]:
        """As it is."""
        return target

    def classes_of(self, target: tuple[str, ...]) -> tuple[str, ...]:
        """Each of its labels."""
        return target

    def measured(self, targets: Sequence[tuple[str, ...]]) -> None:  # noqa: ARG002
        """Labels are no numbers."""
        return

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """One output per label."""
        return classes


class NumberRows(TextRows):
    """A text and its number."""

    fewest_classes = 0

    def read(self, values: Values, columns: Columns, where: str) -> tuple[str, float | None]:
        """Read both; a row without a number has None."""
        return text_in(values, columns.text, where), number_in(values, columns.label, where)

    def mended(self, target: float) -> float:
        """As it is."""
        return target

    def classes_of(self, target: float) -> tuple[str, ...]:  # noqa: ARG002 - as the form has it
        """None: numbers are not counted by class."""
        return ()

    def measured(self, targets: Sequence[float]) -> TargetStatistics:
        """Mean and spread, by which the model is trained."""
        numbers = np.asarray(targets, dtype=np.float64)
        if numbers.min() == numbers.max():
            raise DataError(
                f"dataset: every training row has the number {numbers[0]:g}; there is nothing to "
                "tell apart: check dataset.columns.label"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = float(numbers.mean()), float(numbers.std())
        if not (deviation >= 1 / _LARGEST and np.abs(numbers).max() <= _LARGEST):
            raise DataError(
                f"dataset: the training rows' numbers are beyond {_LARGEST:g}, or nearer to each "
                f"other than {1 / _LARGEST:g}: a model's own hold no such; write them in another "
                "unit"
            )
        return TargetStatistics(
            mean=mean,
            deviation=deviation,
            min=float(numbers.min()),
            max=float(numbers.max()),
        )

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG002
        """One output, the number."""
        return ("value",)
