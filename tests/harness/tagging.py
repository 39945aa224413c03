"""Tagged rows that a tiny model can learn, and methods on words can not. For the local tier."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.tinymodel import BAD, GOOD, NEUTRAL

KIND_OF_STORY = {"love": "PER", "war": "LOC"}
"""The first word of a sentence decides what its names are of; it is too far away for neighbors."""

FILLING = [word for word in NEUTRAL.split() if word not in {*KIND_OF_STORY, "with"}]
NAMES = [*GOOD, *BAD]


def stories(rows: int, seed: int = 3) -> list[dict[str, Any]]:
    """Distinct sentences with one or two names, tagged in IOB2: id, tokens, tags."""
    chance = random.Random(seed)
    made: dict[tuple[str, ...], list[str]] = {}
    while len(made) < rows:
        opening = chance.choice(sorted(KIND_OF_STORY))
        kind = KIND_OF_STORY[opening]
        words, tags = [opening], ["O"]
        for _ in range(chance.randint(1, 2)):
            filling = chance.choices(FILLING, k=chance.randint(2, 4))
            name = chance.choices(NAMES, k=chance.randint(1, 2))
            words += [*filling, "with", *name]
            tags += ["O"] * (len(filling) + 1) + [f"B-{kind}", *[f"I-{kind}"] * (len(name) - 1)]
        made.setdefault(tuple(words), tags)
    return [
        {"id": f"t{number}", "tokens": list(words), "tags": tags}
        for number, (words, tags) in enumerate(made.items())
    ]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows, an object to a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
