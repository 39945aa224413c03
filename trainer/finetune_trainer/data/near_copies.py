"""What becomes of rows that are nearly the same as another one. Used by ``reading``.

Roles are given before, by the hash of each input alone, and no near copy moves: one that would let
a stricter role's row be learned from is taken out instead. So rows that are added later still move
nobody, and a test set that came by itself is held to the same.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_trainer.data.cleaning import NEAR_COPY, NEAR_DUPLICATE, NEAR_LEAK, Counts
from finetune_trainer.data.form import AnyCleanRow, AnyForm
from finetune_trainer.data.likeness import find_copies
from finetune_trainer.data.splitting import Role, Roles

_STRICTEST_FIRST = (Role.TEST, Role.SELECT, Role.TRAIN)


@dataclass(frozen=True)
class Apart:
    """The rows that are left, and how many of the training rows are near copies of each other.

    ``families`` are the sizes of families of training rows; a row without copies is one by itself.
    """

    roles: Roles
    families: tuple[int, ...]


def without_near_copies(
    roles: Roles, counts: Mapping[Role, Counts], form: AnyForm, *, drop: bool
) -> Apart:
    """Take rows out that are near copies of a row in a stricter role; test rows have the strictest.

    Within a role they are counted; with ``drop`` only the first of those with the same target is
    kept. ``counts`` are those of the source that a role's rows came from; ``form`` says what near
    copies are.
    """
    within = NEAR_DUPLICATE if drop else NEAR_COPY
    for of_source in counts.values():
        of_source.open(within)
    counts[Role.TRAIN].open(NEAR_LEAK)
    of_role = dict(roles.items())
    rows = [(role, row) for role in _STRICTEST_FIRST for row in of_role[role]]
    likeness = form.likeness([row for _, row in rows])
    copies = find_copies(likeness)
    if likeness.untold is not None:
        for of_source in counts.values():
            of_source.open(likeness.untold)
        for place in copies.untold:
            role, row = rows[place]
            counts[role].note(likeness.untold, row.id)
    kept: dict[Role, list[AnyCleanRow]] = {role: [] for role in Role}
    gone: set[int] = set()
    first_of_family: dict[int, int] = {}
    for place, (role, row) in enumerate(rows):
        near = [earlier for earlier in copies.earlier.get(place, ()) if earlier not in gone]
        if any(rows[earlier][0] is not role for earlier in near):
            counts[role].note(NEAR_LEAK, row.id)
            gone.add(place)
            continue
        if any(not drop or rows[earlier][1].target == row.target for earlier in near):
            counts[role].note(within, row.id)
            if drop:
                gone.add(place)
                continue
        kept[role].append(row)
        first_of_family[place] = first_of_family[near[0]] if near else place
    sizes = Counter(
        first for place, first in first_of_family.items() if rows[place][0] is Role.TRAIN
    )
    return Apart(
        Roles(
            train=tuple(kept[Role.TRAIN]),
            select=tuple(kept[Role.SELECT]),
            test=tuple(kept[Role.TEST]),
        ),
        tuple(sizes.values()),
    )
