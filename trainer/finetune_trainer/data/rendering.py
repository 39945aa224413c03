"""Turns an example into token ids, each with its weight in the loss: only answers are learned.

Used by ``language`` for every row. A prompt is tokenized as it will be when the model is
asked: alone. So what a model learns begins exactly where it will have to begin.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from finetune_api.training import Truncation
from finetune_trainer.data.chat_template import Segment, chat_segments
from finetune_trainer.data.examples import ChatExample, Example, PromptExample
from finetune_trainer.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """A row's tokens. ``weights`` are the tokens' in the loss, 0 where they are only read.

    ``crossing`` says that a token of the whole text would lie over a border between what is read
    and what is learned, so that the parts were tokenized one by one.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    crossing: bool = False

    @property
    def learned(self) -> int:
        """Tokens that count: of weight, and not the first, which nothing predicts."""
        return sum(weight > 0 for weight in self.weights[1:])

    @property
    def weight(self) -> float:
        """The sum of the counting tokens' weights."""
        return sum(self.weights[1:])


class Renderer:
    """Renders examples by one tokenizer; ``stop_ids`` are the tokens at which generation ends."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, uri: str, stop_ids: Collection[int] = ()
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise UsageError(
                f"model.uri: {uri}: its tokenizer has no end-of-text token, so that a model could "
                "not learn to stop; set eos_token in tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self._end = int(tokenizer.eos_token_id)
        self._stops = frozenset(stop_ids) | {self._end}
        self._opening = _opening(tokenizer, uri)

    def render(self, example: Example, where: str) -> Rendered:
        """Render an example whole, with one end-of-text token after an answer that ends it.

        Raises
        ------
        DataError
            If its chat template can't be verified on it.
        """
        if isinstance(example, ChatExample):
            rendered = self._of_segments(chat_segments(example, self.tokenizer, where))
            return self._ended_chat(rendered)
        if isinstance(example, PromptExample):
            segments = [Segment(example.prompt, 0.0), Segment(example.completion, 1.0)]
        else:
            segments = [Segment(example.text, 1.0)]
        rendered = self._of_segments(segments)
        return self._ended(self._opened(rendered))

    def shortened(self, rendered: Rendered, max_length: int, policy: Truncation) -> Rendered | None:
        """Cut a row to ``max_length`` tokens by the policy; None where it says to drop the row.

        Where the beginning goes, the token that opens every text stays.
        """
        ids, weights = rendered.ids, rendered.weights
        if len(ids) <= max_length:
            return rendered
        if policy is Truncation.DROP:
            return None
        if policy is Truncation.KEEP_START:
            return replace(rendered, ids=ids[:max_length], weights=weights[:max_length])
        kept = int(ids[0] == self.tokenizer.bos_token_id)
        rest = len(ids) - max_length + kept
        return replace(
            rendered, ids=ids[:kept] + ids[rest:], weights=weights[:kept] + weights[rest:]
        )

    def _of_segments(self, segments: Sequence[Segment]) -> Rendered:
        """Tokenize the whole text where it keeps the borders, else part by part."""
        whole = self._ids("".join(segment.text for segment in segments))
        borders, text = [0], ""
        for segment in segments[:-1]:
            text += segment.text
            ids = self._ids(text)
            if whole[: len(ids)] != ids:
                return self._of_parts(segments)
            borders.append(len(ids))
        borders.append(len(whole))
        weights = [
            segment.weight
            for segment, start, end in zip(segments, borders[:-1], borders[1:], strict=True)
            for _ in range(end - start)
        ]
        return Rendered(ids=tuple(whole), weights=tuple(weights))

    def _of_parts(self, segments: Sequence[Segment]) -> Rendered:
        parts = [(self._ids(segment.text), segment.weight) for segment in segments]
        return Rendered(
            ids=tuple(one for ids, _ in parts for one in ids),
            weights=tuple(weight for ids, weight in parts for _ in ids),
            crossing=True,
        )

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _opened(self, rendered: Rendered) -> Rendered:
        """With the token that the tokenizer begins a text with, unless the text has it itself."""
        if not self._opening or rendered.ids[:1] == self._opening:
            return rendered
        return replace(rendered, ids=self._opening + rendered.ids, weights=(0.0, *rendered.weights))

    def _ended(self, rendered: Rendered) -> Rendered:
        """With the end-of-text token, unless it stands there already."""
        if rendered.ids[-1:] == (self._end,):
            return rendered
        weight = rendered.weights[-1] if rendered.weights else 0.0
        return replace(
            rendered, ids=(*rendered.ids, self._end), weights=(*rendered.weights, weight)
        )

    def _ended_chat(self, rendered: Rendered) -> Rendered:
        """A chat whose last answer holds no token that generation stops at gets one after it."""
        if not rendered.weights or rendered.weights[-1] == 0:
            return rendered
        start = len(rendered.weights)
        while start and rendered.weights[start - 1] > 0:
            start -= 1
        if self._stops & set(rendered.ids[start:]):
            return rendered
        return self._ended(rendered)


def _opening(tokenizer: PreTrainedTokenizerBase, uri: str) -> tuple[int, ...]:
    """The token that the tokenizer puts before a text, if it does.

    Raises
    ------
    UsageError
        If it puts others there or one behind: a prompt would end before its answer.
    """
    made = tuple(tokenizer("")["input_ids"])
    if made not in ((), (tokenizer.bos_token_id,)):
        raise UsageError(
            f"model.uri: {uri}: its tokenizer puts {len(made)} tokens around a text, which a "
            "prompt must not end with; leave at most bos_token before it (add_eos_token: false in "
            "tokenizer_config.json, or another post_processor in tokenizer.json)"
        )
    return made
