"""Rows of one text each, with one class. Used by text classification."""

from collections.abc import Callable, Mapping

from finetune_api.job import Columns
from finetune_trainer.data.values import Values, name_in, text_in


class TextRows:
    """What every row has whose input is one text; the target is for others to read."""

    holds_markup = True

    def columns(self, columns: Columns) -> Mapping[str, str]:
        """Text and label."""
        return {"text": columns.text, "label": columns.label}

    def text_of(self, given: str) -> str:
        """The text itself."""
        return given

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

    def classes_of(self, target: str) -> tuple[str, ...]:
        """Its one class."""
        return (target,)

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """One output per class."""
        return classes
