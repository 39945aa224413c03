"""Chat messages and tools as rows hold them: the form of Hugging Face and of OpenAI's files.

A message is an object with ``role`` and ``content``; an assistant's may carry ``tool_calls`` and a
``weight`` from 0 (read, not learned) to 1. Whatever else it holds is handed to the chat template.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.errors import DataError

ASSISTANT = "assistant"
ROLES = ("system", "developer", "user", ASSISTANT, "tool")
MOST_MESSAGES = 1000


@dataclass(frozen=True, slots=True)
class Message:
    """One message; ``content`` is the whole object as a template reads it, without ``weight``.

    ``weight`` is that of each of its tokens in the loss: 0 for everybody's but the assistant's.
    """

    content: Mapping[str, Any]
    weight: float

    @property
    def is_answer(self) -> bool:
        """Whether the assistant says it."""
        return bool(self.content["role"] == ASSISTANT)

    @property
    def text(self) -> str:
        """Its words; empty where it only calls tools."""
        return str(self.content.get("content") or "")


def read_messages(value: object, where: str, column: str) -> list[Message]:
    """Check a row's messages.

    Raises
    ------
    DataError
        Naming the row and the message, from 1, and never its words.
    """
    field = f"{where}: column {column!r}"
    if not isinstance(value, list) or not value:
        raise DataError(f"{field} holds no list of messages; write [{{role, content}}, …]")
    if len(value) > MOST_MESSAGES:
        raise DataError(f"{field} holds {len(value)} messages, more than {MOST_MESSAGES}; split it")
    return [
        _message(one, f"{field}, message {number}") for number, one in enumerate(value, start=1)
    ]


def read_tools(value: object, where: str, column: str) -> list[Mapping[str, Any]]:
    """Check a row's tools: JSON schemas of functions, as a list or as its JSON.

    Parquet can't hold schemas of different forms in one column but as text.

    Raises
    ------
    DataError
        If it is neither.
    """
    if value is None:
        return []
    if isinstance(value, str):
        value = _json(value, f"{where}: column {column!r}")
    tools = _without_unset(value)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise DataError(
            f"{where}: column {column!r} holds no list of tools; write JSON schemas of functions"
        )
    return tools


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise DataError(f"{where}: not an object; write {{role, content}}")
    # Parquet gives each message every key that any of them has.
    content = {str(key): _without_unset(one) for key, one in value.items() if one is not None}
    role = content.get("role")
    if role not in ROLES:
        raise DataError(f"{where}: role is not one of {', '.join(ROLES)}")
    weight = _weight(content.pop("weight", None), role, where)
    if "tool_calls" in content:
        content["tool_calls"] = _tool_calls(content["tool_calls"], role, where)
    words = content.setdefault("content", "")
    if not isinstance(words, str):
        raise DataError(
            f"{where}: content is not text; parts, images and sounds are not supported, write a "
            "string"
        )
    if not words and "tool_calls" not in content and role != "tool":
        raise DataError(f"{where}: content is empty; write it, or leave the message out")
    return Message(content, weight)


def _weight(value: object, role: object, where: str) -> float:
    if role != ASSISTANT:
        if value is None:
            return 0.0
        raise DataError(f"{where}: weight goes with role assistant; take it out here")
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(f"{where}: weight must be a number from 0 to 1")
    return float(value)


def _tool_calls(value: object, role: object, where: str) -> list[dict[str, Any]]:
    """The calls with their arguments as objects, which is what templates take (OpenAI: JSON)."""
    if role != ASSISTANT:
        raise DataError(f"{where}: tool_calls goes with role assistant")
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: tool_calls is not a list of calls")
    return [_tool_call(one, where) for one in value]


def _tool_call(value: object, where: str) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(function, dict) or "name" not in function:
        raise DataError(
            f"{where}: a tool call is not {{type: function, function: {{name, arguments}}}}"
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{where}: arguments of a tool call")
    if not isinstance(arguments, dict):
        raise DataError(f"{where}: arguments of a tool call are not an object")
    return {**value, "function": {**function, "arguments": arguments}}


def _json(text: str, where: str) -> Any:  # whatever JSON holds; checked by the caller
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{where}: not valid JSON") from None


def _without_unset(value: Any) -> Any:  # whatever JSON holds
    """The value without the keys that Parquet fills with nothing."""
    if isinstance(value, Mapping):
        return {key: _without_unset(one) for key, one in value.items() if one is not None}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_unset(one) for one in value]
    return value
