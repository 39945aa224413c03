"""What a language model answers: greedy continuations of some prepared rows' prompts.

For people to read beside the base model's, and for the proof of an export. One row at a time, so
that no row's answer depends on its neighbors' length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from finetune_trainer.data.chat import ASSISTANT
from finetune_trainer.models.check import usable_positions

MOST_NEW_TOKENS = 256
_ROOM = 16


@dataclass(frozen=True)
class Asked:
    """A row as it is asked: the tokens before its last answer, and that answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def room(self) -> int:
        """Tokens that a continuation may take: somewhat more than the answer."""
        return min(MOST_NEW_TOKENS, 2 * len(self.answer) + _ROOM)


def chosen_rows(rows: int, most: int) -> list[int]:
    """``most`` row numbers spread over all, in order; all where there are no more."""
    places = np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))
    return [int(place) for place in places]


def asked(ids: Sequence[int], weights: Sequence[float]) -> Asked:
    """Cut a row before its last answer; a text, which is learned whole, in its middle."""
    end = len(weights)
    while end and weights[end - 1] == 0:
        end -= 1
    start = end
    while start > 1 and weights[start - 1] > 0:
        start -= 1
    if start <= 1:
        start = max(1, end // 2)
    return Asked(prompt=tuple(ids[:start]), answer=tuple(ids[start:end]))


def continued(model: PreTrainedModel, prompt: Sequence[int], room: int) -> tuple[int, ...]:
    """Generate greedily after a prompt, to a stop or for ``room`` tokens, within its positions.

    The model is used as it is, in evaluation mode, with its own generation settings but for
    sampling: as a plain pipeline would with ``do_sample=False``.
    """
    positions = usable_positions(model.config)
    if positions is not None:
        room = min(room, positions - len(prompt))
    if room < 1:
        return ()
    model.train(mode=False)
    ids = torch.tensor([list(prompt)], device=model.device)
    with torch.inference_mode():
        made = model.generate(  # type: ignore[operator]  # it is a mixin's method
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=room,
        )
    return tuple(made[0, len(prompt) :].tolist())


def prompt_ids(given: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids with which a pipeline asks: of a text, or of a chat with its prompt for an answer.

    Empty for what can't be asked: nothing at all, or a chat that its template refuses without the
    tools that the row has.
    """
    if isinstance(given, str):
        return list(tokenizer(given)["input_ids"]) if given else []
    if not given:
        return []
    goes_on = given[-1]["role"] == ASSISTANT
    try:
        made: Any = tokenizer.apply_chat_template(
            given,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            return_dict=True,
        )
    except (TemplateError, ValueError):
        return []
    return list(made["input_ids"])
