"""A chat as its tokenizer's template writes it, cut where an answer begins and where it ends.

The cuts are differences between what the template makes of the messages up to an answer, asked to
prompt for it, and up to and with it. A template's own marks of what is generated would say the
same; most have none and then give an empty mask without a word. So each row's cuts are verified.
"""

from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from finetune_trainer.data.chat import Message
from finetune_trainer.data.examples import ChatExample
from finetune_trainer.errors import DataError, UsageError

_REASON_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a row's text and the weight of its tokens in the loss; 0 is only read."""

    text: str
    weight: float


def require_chat_template(tokenizer: PreTrainedTokenizerBase, uri: str) -> None:
    """Chat messages need a template.

    Raises
    ------
    UsageError
        If the tokenizer has none.
    """
    if not tokenizer.chat_template:
        raise UsageError(
            f"model.uri: {uri}: its tokenizer has no chat template, which dataset.columns.messages "
            "needs; put a chat_template.jinja into the folder, or name prompt and completion"
        )


def chat_segments(
    example: ChatExample, tokenizer: PreTrainedTokenizerBase, where: str
) -> list[Segment]:
    """Render a chat and cut it; the texts put together are what the template writes.

    Raises
    ------
    DataError
        If the template refuses the row, or writes an earlier turn otherwise once later ones
        follow, or an answer otherwise than it prompts for it, or leaves the answer's words out:
        the mask would be wrong. The message names the row and the message, from 1.
    """
    whole = _written(tokenizer, example, len(example.messages), where)
    segments: list[Segment] = []
    at = 0
    for number, message in enumerate(example.messages):
        if message.weight == 0:
            continue
        here = f"{where}, message {number + 1}"
        before = _written(tokenizer, example, number, here, prompt=True)
        after = _written(tokenizer, example, number + 1, here)
        _verify(message, before, after, whole, here)
        segments += [
            Segment(whole[at : len(before)], 0.0),
            Segment(after[len(before) :], message.weight),
        ]
        at = len(after)
    segments.append(Segment(whole[at:], 0.0))
    return [segment for segment in segments if segment.text]


def _verify(message: Message, before: str, after: str, whole: str, where: str) -> None:
    if not whole.startswith(after):
        raise DataError(
            f"{where}: the chat template writes this answer otherwise once later turns follow, so "
            "that it can't be learned; end the row with it, or give it weight 0"
        )
    if not after.startswith(before):
        raise DataError(
            f"{where}: the chat template writes this answer otherwise than it prompts for one; "
            "mend the template, so that what add_generation_prompt writes begins each answer"
        )
    if message.text.strip() not in after[len(before) :]:
        raise DataError(
            f"{where}: the chat template leaves the answer's words out or changes them; mend the "
            "template, or take the row out"
        )


def _written(
    tokenizer: PreTrainedTokenizerBase,
    example: ChatExample,
    messages: int,
    where: str,
    *,
    prompt: bool = False,
) -> str:
    """What the template makes of the first ``messages`` messages."""
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message.content) for message in example.messages[:messages]],
                tools=[dict(tool) for tool in example.tools] or None,
                add_generation_prompt=prompt,
                tokenize=False,
            )
        )
    except (TemplateError, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        # A template's own refusal is a sentence of its author's; other errors may quote the row.
        reason = ""
        if type(error) is TemplateError:
            reason = f" ({str(error)[:_REASON_CHARACTERS]})"
        raise DataError(
            f"{where}: the chat template refuses the messages up to here{reason}; see that roles "
            "come in its order, or take the row out"
        ) from None
