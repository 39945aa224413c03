"""What a column of ``evaluation.groups`` must be, a few names, and how many rows each has.

Used by ``reading`` and ``prepare``.
"""

from collections import Counter
from collections.abc import Sequence

from finetune_api.datareport import GroupCount
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.data.splitting import Role, Roles
from finetune_trainer.data.values import NO_GROUP
from finetune_trainer.errors import DataError

MOST_GROUPS = 20


def check_groups(rows: Sequence[AnyCleanRow], columns: Sequence[str]) -> None:
    """Hold the test rows' columns to it.

    Raises
    ------
    DataError
        If one holds numbers, as many values as rows, or one value only.
    """
    for place, column in enumerate(columns):
        where = f"evaluation.groups: column {column!r}"
        names = {row.groups[place] for row in rows}
        given = names - {NO_GROUP}
        if given and all(_is_number(name) for name in given):
            raise DataError(
                f"{where} holds numbers; cut them into brackets and write those as names, such as "
                "18-29 (and codes as what they stand for)"
            )
        if len(names) > MOST_GROUPS:
            raise DataError(
                f"{where} has {len(names)} different values among the test rows, more than "
                f"{MOST_GROUPS}; put them together into fewer, or name another column"
            )
        if len(names) < 2:
            raise DataError(
                f"{where} has the same value in all test rows, so that there is nothing to compare "
                "it with; name another column, or leave it out"
            )


def count_groups(roles: Roles, columns: Sequence[str]) -> tuple[GroupCount, ...]:
    """The rows of each group in each role, those of the test rows first, then by frequency."""
    counted: list[GroupCount] = []
    for place, column in enumerate(columns):
        counts = {
            role: Counter(row.groups[place] for row in rows if row.groups)
            for role, rows in roles.items()
        }
        test = counts[Role.TEST]
        every = sum(counts.values(), Counter[str]())
        names = sorted(every, key=lambda name: (name not in test, -every[name], name))
        # A row of a set that was read without the columns is in no group.
        grouped = {role: any(row.groups for row in rows) for role, rows in roles.items()}
        counted += [
            GroupCount(
                column=column,
                group=name,
                train=counts[Role.TRAIN][name] if grouped[Role.TRAIN] else None,
                select=counts[Role.SELECT][name] if grouped[Role.SELECT] else None,
                test=test[name],
            )
            for name in names[:MOST_GROUPS]
        ]
    return tuple(counted)


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
