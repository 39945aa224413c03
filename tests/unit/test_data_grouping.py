"""How many rows each group has in each role."""

from __future__ import annotations

from finetune_trainer.data.grouping import count_groups
from finetune_trainer.data.rows import CleanRow, input_key
from finetune_trainer.data.splitting import Roles


def rows_of(*groups: tuple[str, ...]) -> tuple[CleanRow[str, str], ...]:
    return tuple(
        CleanRow(
            id=str(number),
            input="",
            target="a",
            classes=("a",),
            group=None,
            key=input_key(""),
            groups=of_row,
        )
        for number, of_row in enumerate(groups)
    )


def test_each_column_counts_every_row_once_in_its_role() -> None:
    roles = Roles(
        train=rows_of(("north", "old"), ("north", "young"), ("south", "young")),
        select=rows_of(("south", "old")),
        test=rows_of(("south", "old"), ("south", "young"), ("north", "old")),
    )
    told = [
        (one.column, one.group, one.train, one.select, one.test)
        for one in count_groups(roles, ("origin", "age"))
    ]
    assert told == [
        ("origin", "south", 1, 1, 2),
        ("origin", "north", 2, 0, 1),
        ("age", "old", 1, 1, 2),
        ("age", "young", 2, 0, 1),
    ]
    assert count_groups(roles, ()) == ()


def test_a_set_that_was_read_without_the_columns_is_not_counted_as_none() -> None:
    roles = Roles(train=rows_of((), ()), select=rows_of(()), test=rows_of(("a",), ("b",), ("b",)))
    told = [(one.group, one.train, one.select, one.test) for one in count_groups(roles, ("x",))]
    assert told == [("b", None, None, 2), ("a", None, None, 1)]


def test_groups_of_the_test_rows_are_listed_before_more_frequent_ones() -> None:
    train = [(f"g{number}",) for number in range(30) for _ in range(3)]
    roles = Roles(train=rows_of(*train), select=(), test=rows_of(("rare",), ("g29",)))
    listed = [one.group for one in count_groups(roles, ("x",))]
    assert listed[:2] == ["g29", "rare"]
    assert len(listed) == 20
