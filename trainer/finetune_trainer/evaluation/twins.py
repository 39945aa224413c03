"""Asks the model about test rows whose terms are swapped, and lays out what it says.

Used by the evidence of tasks on whole texts; ``counterfactuals`` sums up.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from datasets import Dataset
from numpy.typing import NDArray

from finetune_api.counterfactuals import NEUTRAL
from finetune_api.evaluationreport import CounterfactualsReport
from finetune_trainer.data.encoding import encode_texts, token_features
from finetune_trainer.evaluation.counterfactuals import Changes, Swapper, compare
from finetune_trainer.evaluation.findings import TestRows
from finetune_trainer.evaluation.inference import row_logits
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.tables import at_places

Logits = NDArray[np.float32]
Told = NDArray[np.bool_] | NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model says of rows.

    ``told`` is what is told, ``[rows]`` or ``[rows, labels]``, unset of numbers; ``values`` are
    the probabilities ``[rows, outputs]``, or numbers ``[rows]``; ``columns`` both as predictions
    are kept, by the end of a column's name.
    """

    told: Told | None
    values: Floats
    columns: dict[str, pa.Array]


@dataclass(frozen=True, kw_only=True)
class Counterfactuals:
    """The figures, and the columns of predictions that they follow from."""

    report: CounterfactualsReport
    columns: dict[str, pa.Array]


def counterfactuals(
    test: TestRows,
    answers: Callable[[Logits], Answers],
    asked: Logits,
    distance: Callable[[Floats], Floats],
    clusters: Integers | None,
) -> Counterfactuals | None:
    """Swap, ask and compare; None where the manifest doesn't ask for it.

    ``asked`` are the logits of the test rows as they are. ``distance`` makes of differences of
    values, ``[rows, …]``, one number for each row. Columns are called ``swaps.NAME_…``, and are
    null for rows that hold no term.
    """
    rule = test.run.evaluation.counterfactuals
    if rule is None:
        return None
    texts, before = list(test.rows["text"]), answers(asked)
    named = {NEUTRAL: rule.neutral, **{swap.name: swap.pairs for swap in rule.swaps}}
    changes: dict[str, Changes] = {}
    columns: dict[str, pa.Array] = {}
    for name, pairs in named.items():
        swapper = Swapper(pairs)
        twins = {place: twin for place, text in enumerate(texts) if (twin := swapper.twin(text))}
        places = np.fromiter(twins, dtype=np.int64, count=len(twins))
        after = answers(_ask(test, twins))
        changes[name] = Changes(
            rows=places,
            flips=_differ(before.told, after.told, places),
            change=distance(after.values - before.values[places]),
        )
        for kind, column in after.columns.items():
            columns[f"swaps.{name}_{kind}"] = at_places(column, places, len(texts))
    return Counterfactuals(report=compare(changes, clusters), columns=columns)


def _differ(before: Told | None, after: Told | None, places: Integers) -> NDArray[np.bool_] | None:
    if before is None or after is None:
        return None
    differing: NDArray[np.bool_] = before[places] != after
    if differing.ndim > 1:
        # Of several labels all must be as they were.
        differing = np.asarray(differing.any(axis=1))
    return differing


def _ask(test: TestRows, twins: dict[int, str]) -> Logits:
    """The logits of the rows at these places with these texts instead of their own."""
    names = list(token_features(test.tokenizer))
    rows = test.rows.select(twins)
    length = test.run.training.max_length
    assert length is not None, "tasks on texts have one"

    def examples() -> Iterator[dict[str, object]]:
        encoded = encode_texts(list(twins.values()), test.tokenizer, length)
        for row, one in zip(rows, encoded, strict=True):
            yield {**row, **one.example}

    if not twins:
        return np.zeros((0, int(test.model.config.num_labels or 0)), dtype=np.float32)
    assert set(names) <= set(rows.column_names)
    swapped = Dataset.from_list(list(examples()), features=rows.features)
    return row_logits(test.model, swapped, test.collation)
