"""How many rows are in which language, and which are not in that of most.

Used by ``reading`` and ``prepare``.
"""

from collections import Counter
from collections.abc import Mapping

from finetune_api.datareport import LanguageCount
from finetune_trainer.data.cleaning import OFF_LANGUAGE, Counts
from finetune_trainer.data.languages import NO_LANGUAGE, UNDECIDED
from finetune_trainer.data.splitting import Role, Roles

MOST_LANGUAGES = 20
FEWEST_ROWS = 10
"""Of fewer training rows whose language is known, none is called the language of most."""


def count_languages(roles: Roles) -> tuple[LanguageCount, ...]:
    """The rows of each language in each role, the most frequent ones first."""
    counts = {role: Counter(row.language for row in rows) for role, rows in roles.items()}
    every = sum(counts.values(), Counter[str]())
    return tuple(
        LanguageCount(
            language=language,
            train=counts[Role.TRAIN][language],
            select=counts[Role.SELECT][language],
            test=counts[Role.TEST][language],
        )
        for language, _ in sorted(every.items(), key=lambda one: (-one[1], one[0]))[:MOST_LANGUAGES]
    )


def note_off_language(roles: Roles, counts: Mapping[Role, Counts]) -> None:
    """Count rows that are in another language than more than half of the training rows are.

    Nothing is said where the training rows have no such language. ``counts`` are those of the
    source that a role's rows came from.
    """
    for of_source in counts.values():
        of_source.open(OFF_LANGUAGE)
    known = Counter(row.language for row in roles.train if _is_language(row.language))
    if known.total() < FEWEST_ROWS:
        return
    ((most, rows),) = known.most_common(1)
    if 2 * rows <= known.total():
        return
    for role, of_role in roles.items():
        for row in of_role:
            if _is_language(row.language) and row.language != most:
                counts[role].note(OFF_LANGUAGE, row.id)


def _is_language(code: str) -> bool:
    return code not in {UNDECIDED, NO_LANGUAGE}
