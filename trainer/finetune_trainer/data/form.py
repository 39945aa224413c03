"""What a row of a task is: how it is read, cleaned and sorted. Each task has its own.

Used by the modules of the prepare step, which are the same for every task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from finetune_api.datareport import TargetStatistics
from finetune_api.dataset import Columns
from finetune_trainer.data.likeness import Likeness
from finetune_trainer.data.rows import CleanRow, Row
from finetune_trainer.data.values import Values

I = TypeVar("I")  # noqa: E741  # the input, as in rows
T = TypeVar("T")


class RowForm(Protocol[I, T]):
    """What input and target of a row are, and what is asked of them."""

    @property
    def fewest_classes(self) -> int:
        """The classes that there must be at least; 0 for a task that has none."""

    @property
    def holds_text(self) -> bool:
        """Whether its inputs are texts, which can be cleaned."""

    @property
    def faults(self) -> Sequence[str]:
        """Why inputs can't be used, as reports call it: all that ``fault_of`` may say."""

    @property
    def holds_markup(self) -> bool:
        """Whether tags may stand in its texts, and can be taken out of them."""

    @property
    def no_target(self) -> str:
        """What the lack of a target is called in reports."""

    @property
    def has_one_target(self) -> bool:
        """Whether equal inputs with different targets can't all be right."""

    @property
    def mending(self) -> str | None:
        """The step in which targets are mended; None where they are taken as they are."""

    def columns(self, columns: Columns) -> Mapping[str, str]:
        """The columns that a row is read from, by their setting under ``dataset.columns``."""

    def read(self, values: Values, columns: Columns, where: str) -> tuple[I, T | None]:
        """Read input and target; None for a target that the row doesn't have.

        Raises
        ------
        DataError
            If a column holds what is neither.
        """

    def fault_of(self, given: I) -> str | None:
        """Why an input can't be used at all; None if it can."""

    def text_of(self, given: I) -> str:
        """What inputs are compared and searched for leaks by: all of its text, where it is one."""

    def prose_of(self, given: I) -> str:
        """The words that people would read of it; empty where it has none."""

    def likeness(self, rows: Sequence[CleanRow[I, T]]) -> Likeness:
        """Which of the rows are near copies of each other."""

    def with_texts(self, given: I, change: Callable[[str], str]) -> I:
        """The input with each of its texts changed."""

    def mended(self, target: T) -> T:
        """The target in the form that is learned."""

    def classes_of(self, target: T) -> tuple[str, ...]:
        """The classes that a row is counted in."""

    def needed(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Those of the classes that every role must have rows of."""

    def measured(self, targets: Sequence[T]) -> TargetStatistics | None:
        """What the training rows' numbers are like; None where targets are no numbers.

        Raises
        ------
        DataError
            If there is nothing to learn from them.
        """

    def outputs(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the model's outputs, in their order."""


# Rows and forms of whichever task.
AnyRow = Row[Any, Any]
AnyCleanRow = CleanRow[Any, Any]
AnyForm = RowForm[Any, Any]
