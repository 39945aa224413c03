"""Some rows as the model reads them, with what it learns of each marked, for people to look at.

Written by ``prepare`` beside where the model will lie: a wrong mask is seen here at a glance.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from transformers import PreTrainedTokenizerBase

from finetune_trainer.data.rendering import Rendered

MOST_ROWS = 20
_HEAD = (
    "Rows of the training set as the model reads them. What stands between ⟦ and ⟧ is learned, "
    "all else\nonly read; a number after ⟦ is the weight of what follows.\n"
)


def rendered_text(rows: Sequence[tuple[str, Rendered]], tokenizer: PreTrainedTokenizerBase) -> str:
    """Lay out rows, given as id and tokens."""
    return _HEAD + "".join(_laid_out(name, row, tokenizer) for name, row in rows)


def _laid_out(name: str, row: Rendered, tokenizer: PreTrainedTokenizerBase) -> str:
    head = f"\n=== row {name}: {len(row.ids)} tokens, {row.learned} learned ===\n"
    return head + "".join(_stretches(row, tokenizer)) + "\n"


def _stretches(row: Rendered, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    for weight, run in groupby(zip(row.weights, row.ids, strict=True), key=itemgetter(0)):
        text = tokenizer.decode([one for _, one in run], skip_special_tokens=False)
        if weight == 0:
            yield str(text)
        else:
            yield f"⟦{'' if weight == 1 else f'{weight:g} '}{text}⟧"
