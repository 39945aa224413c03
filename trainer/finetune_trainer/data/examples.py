"""One row of language data in the form it was written: a text, a prompt and completion, a chat.

``read_example`` makes one from a row's columns; ``chat_template`` and ``rendering`` turn it into
tokens. What a row asks decides its role in the split; what it answers is what a model learns.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.dataset import Columns
from finetune_trainer.data.chat import Message, read_messages, read_tools
from finetune_trainer.data.values import Values, text_in
from finetune_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text that is learned from its first token to its last."""

    text: str

    @property
    def question(self) -> str:
        """What the row's role depends on: all of it, for a text asks nothing."""
        return self.text

    @property
    def prose(self) -> str:
        """The text itself."""
        return self.text

    @property
    def answer(self) -> str:
        """What is learned beside the question."""
        return ""

    @property
    def asked(self) -> str:
        """What a pipeline would be asked: the first half."""
        return self.text[: max(1, len(self.text) // 2)]

    @property
    def teaches(self) -> bool:
        """Whether there is anything to learn."""
        return bool(self.text.strip())


@dataclass(frozen=True, slots=True)
class PromptExample:
    """A prompt, which is read, and its completion, which is learned."""

    prompt: str
    completion: str

    @property
    def question(self) -> str:
        """What the row's role depends on."""
        return self.prompt

    @property
    def prose(self) -> str:
        """The prompt."""
        return self.prompt

    @property
    def answer(self) -> str:
        """What is learned."""
        return self.completion

    @property
    def asked(self) -> str:
        """What a pipeline would be asked."""
        return self.prompt

    @property
    def teaches(self) -> bool:
        """Whether there is anything to learn."""
        return bool(self.completion.strip())


@dataclass(frozen=True, slots=True)
class ChatExample:
    """Messages in turn, and the tools that an assistant could call; its messages are learned."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def question(self) -> str:
        """Tools and all that others than the assistant say, as JSON; if nobody does, all of it."""
        said = [message.content for message in self.messages if not message.is_answer]
        return _json([self.tools, *(said or [message.content for message in self.messages])])

    @property
    def prose(self) -> str:
        """What others than the assistant say; if nobody does, what it says."""
        said = [message.text for message in self.messages if not message.is_answer]
        return "\n".join(said or [message.text for message in self.messages])

    @property
    def answer(self) -> str:
        """What the assistant says and how much it counts, as JSON."""
        said = [[one.content, one.weight] for one in self.messages if one.is_answer]
        return _json(said)

    @property
    def asked(self) -> list[Mapping[str, Any]]:
        """What a pipeline would be asked: the messages before the last learned one, no tools."""
        last = max(number for number, one in enumerate(self.messages) if one.weight > 0)
        return [message.content for message in self.messages[:last]]

    @property
    def teaches(self) -> bool:
        """Whether there is anything to learn."""
        return any(message.weight > 0 for message in self.messages)


Example = TextExample | PromptExample | ChatExample


def language_columns(columns: Columns) -> dict[str, str]:
    """The columns that hold a row's example, by their setting below ``dataset.columns``."""
    if columns.messages is not None:
        tools = {} if columns.tools is None else {"tools": columns.tools}
        return {"messages": columns.messages} | tools
    if columns.prompt is not None and columns.completion is not None:
        return {"prompt": columns.prompt, "completion": columns.completion}
    return {"text": columns.text}


def read_example(values: Values, columns: Columns, where: str) -> Example:
    """Make a row's example of its columns.

    Raises
    ------
    DataError
        If a column holds something else than it should; the message begins with ``where`` and
        never quotes the row.
    """
    if columns.messages is not None:
        messages = read_messages(values.get(columns.messages), where, columns.messages)
        tools: Sequence[Mapping[str, Any]] = ()
        if columns.tools is not None:
            tools = read_tools(values.get(columns.tools), where, columns.tools)
        made = ChatExample(tuple(messages), tuple(tools))
        # As one text, it is held to what a text is held to.
        text_in({columns.messages: made.question + made.answer}, columns.messages, where)
        return made
    if columns.prompt is not None and columns.completion is not None:
        return PromptExample(
            _text(values, columns.prompt, where), _text(values, columns.completion, where)
        )
    return TextExample(_text(values, columns.text, where))


def with_texts(example: Example, change: Callable[[str], str]) -> Example:
    """The example with each of its texts changed; tools and calls stay as they are."""
    if isinstance(example, TextExample):
        return TextExample(change(example.text))
    if isinstance(example, PromptExample):
        return PromptExample(change(example.prompt), change(example.completion))
    messages = [
        Message({**message.content, "content": change(message.text)}, message.weight)
        for message in example.messages
    ]
    return ChatExample(tuple(messages), example.tools)


def _text(values: Values, column: str, where: str) -> str:
    if isinstance(values.get(column), list):
        raise DataError(
            f"{where}: column {column!r} holds a list, not text; name a column of chat messages in "
            "dataset.columns.messages"
        )
    return text_in(values, column, where)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
