"""Gives every row its role: train, select or test. Pure; used by ``reading``.

A unit is a group, or all rows with the same input. It gets its role from a seeded hash of itself
alone, so that rows added later move nobody, and no input or group stands in two roles.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from finetune_api.dataset import Split, SplitStrategy
from finetune_api.markers import Digest
from finetune_trainer.data.cleaning import GROUP_LEAK, LEAK, SAMPLED, Counts
from finetune_trainer.data.form import AnyCleanRow
from finetune_trainer.errors import DataError

FEWEST_TRAIN_ROWS = 2
"""Per class; fewer can't be cross-validated. Select and test need one."""


class Role(StrEnum):
    """What a row is for."""

    TRAIN = "train"
    SELECT = "select"
    TEST = "test"


_NO_CLASS = "no class"
"""Stands for the classes of rows that have none."""

_FEWEST = {Role.TRAIN: FEWEST_TRAIN_ROWS, Role.SELECT: 1, Role.TEST: 1}


@dataclass(frozen=True)
class Roles:
    """The rows of each role, in the order in which they were read."""

    train: tuple[AnyCleanRow, ...]
    select: tuple[AnyCleanRow, ...]
    test: tuple[AnyCleanRow, ...]

    def items(self) -> tuple[tuple[Role, tuple[AnyCleanRow, ...]], ...]:
        """Each role with its rows."""
        return ((Role.TRAIN, self.train), (Role.SELECT, self.select), (Role.TEST, self.test))


def position(unit: bytes, seed: int, purpose: str = "split") -> float:
    """Where a unit lies in [0, 1): uniform over units, the same for ever for unit and seed."""
    digest = hashlib.blake2b(
        unit, digest_size=8, key=str(seed).encode(), person=purpose.encode()
    ).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def sample(
    rows: Sequence[AnyCleanRow], limit: int | None, seed: int, counts: Counts
) -> list[AnyCleanRow]:
    """At most ``limit`` rows, chosen by their inputs' hash; in the order in which they were."""
    if limit is None:
        return list(rows)
    counts.open(SAMPLED)
    ranked = sorted(rows, key=lambda row: (position(row.key, seed, "sample"), row.id))
    chosen = {row.id for row in ranked[:limit]}
    for row in rows:
        if row.id not in chosen:
            counts.note(SAMPLED, row.id)
    return [row for row in rows if row.id in chosen]


def split(
    rows: Sequence[AnyCleanRow],
    rules: Split,
    own_test: Sequence[AnyCleanRow] | None,
    needed: Callable[[tuple[str, ...]], tuple[str, ...]] = tuple,
) -> Roles:
    """Give each row its role; with a test set of its own, ``rows`` only train and select.

    ``needed`` are those of a row's classes that each role must have.

    Raises
    ------
    DataError
        If the stratified strategy finds a class with fewer units than roles.
    """
    test_share = 0 if own_test is not None else rules.test
    if rules.strategy is SplitStrategy.HASH:
        roles = _by_threshold(rows, rules, test_share)
    else:
        classes = {row.unit: Counter[str]() for row in rows}
        for row in rows:
            classes[row.unit].update(needed(row.classes) or [_NO_CLASS])
        roles = _by_rank(classes, rules, test_share)
    chosen = {role: tuple(row for row in rows if roles[row.unit] is role) for role in Role}
    test = chosen[Role.TEST] if own_test is None else tuple(own_test)
    return Roles(train=chosen[Role.TRAIN], select=chosen[Role.SELECT], test=test)


def _by_threshold(rows: Iterable[AnyCleanRow], rules: Split, test_share: int) -> dict[bytes, Role]:
    roles: dict[bytes, Role] = {}
    for unit in {row.unit for row in rows}:
        percent = 100 * position(unit, rules.seed)
        if percent < test_share:
            roles[unit] = Role.TEST
        elif percent < test_share + rules.select:
            roles[unit] = Role.SELECT
        else:
            roles[unit] = Role.TRAIN
    return roles


def _by_rank(
    labels: Mapping[bytes, Counter[str]], rules: Split, test_share: int
) -> dict[bytes, Role]:
    """Rank the units of each class by their hash and cut.

    A unit is of its most frequent class; of several, of that which the fewest units have.
    """
    units_with = Counter(label for counter in labels.values() for label in counter)
    classes: defaultdict[str, list[bytes]] = defaultdict(list)
    for unit, counter in labels.items():
        classes[min(counter, key=lambda one: (-counter[one], units_with[one], one))].append(unit)
    roles: dict[bytes, Role] = {}
    for label, units in sorted(classes.items()):
        shares = {Role.TEST: test_share, Role.SELECT: rules.select}
        wanted = {
            role: max(1, round(len(units) * share / 100)) for role, share in shares.items() if share
        }
        if len(units) < sum(wanted.values()) + FEWEST_TRAIN_ROWS:
            raise DataError(
                f"dataset.split: class {label!r} has {len(units)} different inputs or groups, too "
                f"few for {len(wanted) + 1} roles; add rows, or drop it with "
                "dataset.cleaning.dropLabels"
            )
        ranked = sorted(units, key=lambda unit: (position(unit, rules.seed), unit))
        of_class = [role for role, count in wanted.items() for _ in range(count)]
        of_class += [Role.TRAIN] * (len(units) - len(of_class))
        roles.update(zip(ranked, of_class, strict=True))
    return roles


def without_leaks(roles: Roles, counts: Counts, *, own_test: bool) -> Roles:
    """Take rows out of train and select whose input stands in test, or in select, as well.

    The split itself lets none through but where equal inputs lie in different groups, or where
    the test set came by itself; then groups of the test set leave the other roles, too.
    """
    counts.open(LEAK)
    test_groups: set[str] = set()
    if own_test:
        test_groups = {row.group for row in roles.test if row.group is not None}
    if test_groups:
        counts.open(GROUP_LEAK)
    test_keys = {row.key for row in roles.test}
    select = _kept(roles.select, test_keys, test_groups, counts)
    select_keys = {row.key for row in select}
    train = _kept(roles.train, test_keys | select_keys, test_groups, counts)
    return Roles(train=train, select=select, test=roles.test)


def _kept(
    rows: Iterable[AnyCleanRow], keys: set[bytes], groups: set[str], counts: Counts
) -> tuple[AnyCleanRow, ...]:
    kept = []
    for row in rows:
        if row.key in keys:
            counts.note(LEAK, row.id)
        elif row.group in groups:
            counts.note(GROUP_LEAK, row.id)
        else:
            kept.append(row)
    return tuple(kept)


def classes_of(roles: Roles, named: Sequence[str], *, fewest: int, most: int) -> tuple[str, ...]:
    """The classes in the order of the model's outputs: as named, or those of the rows, sorted.

    Raises
    ------
    DataError
        If there are fewer than ``fewest``, or more than ``most``.
    """
    found = {label for _, rows in roles.items() for row in rows for label in row.classes}
    classes = tuple(named) or tuple(sorted(found))
    if len(classes) < fewest:
        what = f"one class only, {classes[0]!r}" if classes else "no class at all"
        raise DataError(
            f"dataset: {what}; there must be rows of {fewest}: check dataset.columns.label, "
            "dataset.labels and dataset.cleaning"
        )
    if len(classes) > most:
        raise DataError(
            f"dataset: {len(classes)} different labels, more than {most} classes; is "
            "dataset.columns.label the right column?"
        )
    return classes


def check_roles(
    roles: Roles, classes: Sequence[str], strategy: SplitStrategy, *, own_test: bool
) -> None:
    """Every class needs rows to learn from, to select by and to be tested on.

    A test set of the user's own is taken as it is, as long as training has seen its classes.

    Raises
    ------
    DataError
        Naming the first class that has too few, and the way out.
    """
    for role, rows in roles.items():
        if len(rows) < _FEWEST[role]:
            raise DataError(
                f"dataset: {len(rows)} rows in role {role.value}, fewer than {_FEWEST[role]}; add "
                "rows, or change the shares of dataset.split"
            )
    counts = {role: class_counts(rows) for role, rows in roles.items()}
    for label in classes:
        if counts[Role.TRAIN][label] == 0 and counts[Role.TEST][label] and own_test:
            raise DataError(
                f"dataset.test: class {label!r} has {counts[Role.TEST][label]} test rows and none "
                "to train on; add training rows of it, or drop it with dataset.cleaning.dropLabels"
            )
        for role, fewest in _FEWEST.items():
            if counts[role][label] >= fewest or (role is Role.TEST and own_test):
                continue
            raise DataError(
                f"dataset: class {label!r} has {counts[role][label]} rows in role {role.value}, "
                f"fewer than {fewest}; {_way_out(strategy)}"
            )


def _way_out(strategy: SplitStrategy) -> str:
    more = "add rows of it, or drop it with dataset.cleaning.dropLabels"
    if strategy is SplitStrategy.STRATIFIED:
        return more
    return f"set dataset.split.strategy: stratified, {more}"


def class_counts(rows: Iterable[AnyCleanRow]) -> Mapping[str, int]:
    """Rows per class; 0 for every other."""
    return Counter(label for row in rows for label in row.classes)


def split_digest(roles: Roles) -> Digest:
    """SHA-256 over the sorted pairs of row id and role: what must not change for a comparison."""
    pairs = sorted((row.id, role.value) for role, rows in roles.items() for row in rows)
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(json.dumps(pair).encode() + b"\n")
    return f"sha256:{digest.hexdigest()}"
