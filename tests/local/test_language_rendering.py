"""Rows of language data as tokens: only answers are learned, they end, every mask is verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from finetune_api.dataset import Columns
from finetune_api.training import Truncation
from finetune_trainer.data.examples import Example, read_example
from finetune_trainer.data.rendered_rows import rendered_text
from finetune_trainer.data.rendering import Rendered, Renderer
from finetune_trainer.errors import DataError, UsageError
from harness.language import (
    CHATML,
    chat_tokenizer,
    from_tokenizer,
    gpt2_tokenizer,
    llama_tokenizer,
    with_template,
)

SECRET = "nobody may read this"
CUTS_EARLIER_ANSWERS = CHATML.replace(
    "{{ message.content }}",
    "{{ 'cut' if message.role == 'assistant' and not loop.last else message.content }}",
)


def example(row: dict[str, Any], **columns: str) -> Example:
    names = columns or {name: name for name in row if name in Columns.model_fields}
    return read_example(row, Columns.model_validate(names), "rows.jsonl: line 7")


def rendered(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Rendered:
    return Renderer(tokenizer, "m").render(example(row), "rows.jsonl: line 7")


def learned(row: Rendered, tokenizer: PreTrainedTokenizerBase) -> str:
    """The learned tokens as text; `|` stands for what is read between them."""
    runs: list[list[int]] = []
    before = 0.0
    for one, weight in zip(row.ids, row.weights, strict=True):
        if weight > 0:
            if not before:
                runs.append([])
            runs[-1].append(one)
        before = weight
    return "|".join(written(run, tokenizer) for run in runs)


def written(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False))


def chat(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": words} for role, words in turns]} | more


def test_a_text_is_learned_whole_and_ends_once() -> None:
    tokenizer = gpt2_tokenizer()
    for text in ("hello world", "hello world<|endoftext|>"):
        row = rendered({"text": text}, tokenizer)
        assert learned(row, tokenizer) == "hello world<|endoftext|>"
        assert row.learned == len(row.ids) - 1, "nothing predicts the first token"


def test_a_completion_is_learned_and_its_prompt_is_not() -> None:
    tokenizer = gpt2_tokenizer()
    row = rendered({"prompt": "question: hello", "completion": " world"}, tokenizer)
    assert learned(row, tokenizer) == " world<|endoftext|>"
    assert written(row.ids, tokenizer) == "question: hello world<|endoftext|>"
    assert not row.crossing


def test_a_prompt_is_tokenized_as_it_will_be_asked() -> None:
    tokenizer = gpt2_tokenizer()
    row = rendered({"prompt": "question: ", "completion": "world"}, tokenizer)
    asked = tokenizer("question: ")["input_ids"]
    assert list(row.ids[: len(asked)]) == asked
    assert row.crossing, "the whole text has the space and the word in one token"
    assert learned(row, tokenizer) == "world<|endoftext|>"


@pytest.mark.parametrize("row", [
    {"text": "hello"}, {"text": "<s>hello"}, {"prompt": "hello", "completion": " world"},
    chat(("user", "hello"), ("assistant", "world")),
])  # fmt: skip
def test_a_row_begins_with_one_bos_and_ends_with_one_eos(row: dict[str, Any]) -> None:
    tokenizer = llama_tokenizer()
    ids = rendered(row, tokenizer).ids
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert (ids[0], ids[-1]) == (begin, end)
    assert [one for one in ids if one in (begin, end)] == [begin, end]


def test_every_answer_of_a_chat_is_learned_with_its_end_and_no_question_is() -> None:
    tokenizer = chat_tokenizer()
    row = rendered(
        chat(("system", "ok"), ("user", "one"), ("assistant", "red"), ("user", "two"),
             ("assistant", "blue")),
        tokenizer,
    )  # fmt: skip
    assert learned(row, tokenizer) == "red<|im_end|>\n|blue<|im_end|>\n"
    assert written(row.ids, tokenizer).startswith(
        "<|im_start|>system\nok<|im_end|>\n<|im_start|>us"
    )


def test_a_template_without_generation_marks_gives_no_empty_mask() -> None:
    tokenizer = chat_tokenizer()
    messages = chat(("user", "one"), ("assistant", "red"))["messages"]
    stock: Any = tokenizer.apply_chat_template(
        messages, return_assistant_tokens_mask=True, return_dict=True
    )
    assert not any(stock["assistant_masks"]), "what the library says of it"
    assert rendered({"messages": messages}, tokenizer).learned > 0


def test_a_chat_whose_template_ends_no_turn_gets_an_end() -> None:
    tokenizer = with_template(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    row = rendered(chat(("user", "one"), ("assistant", "red")), tokenizer)
    assert learned(row, tokenizer) == " red\n<|im_end|>"


def test_a_token_that_generation_stops_at_needs_no_other_end() -> None:
    tokenizer = with_template(CHATML, end="<|endoftext|>")
    row = example(chat(("user", "one"), ("assistant", "red")))
    stop: Any = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ended = Renderer(tokenizer, "m", [stop]).render(row, "")
    assert learned(ended, tokenizer) == "red<|im_end|>\n"
    assert learned(Renderer(tokenizer, "m").render(row, ""), tokenizer) == (
        "red<|im_end|>\n<|endoftext|>"
    )


def test_a_message_is_learned_by_its_weight() -> None:
    tokenizer = chat_tokenizer()
    row = chat(("user", "one"), ("assistant", "red"), ("user", "two"), ("assistant", "blue"))
    row["messages"][1]["weight"] = 0
    row["messages"][3]["weight"] = 0.5
    found = rendered(row, tokenizer)
    assert learned(found, tokenizer) == "blue<|im_end|>\n"
    assert found.weight == 0.5 * found.learned


def test_tools_and_calls_reach_the_template_as_it_reads_them() -> None:
    tokenizer = with_template(
        "{% for tool in tools %}{{ tool.function.name }};{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "{% for call in m.tool_calls or [] %}{{ call.function.arguments.a + 1 }}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 4}'}, "id": None}
    row = {
        "messages": [
            {"role": "user", "content": "one", "tool_calls": None, "weight": None},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "5"},
            {"role": "assistant", "content": "five"},
        ],
        "tools": '[{"type": "function", "function": {"name": "add"}}]',
    }
    found = rendered(row, tokenizer)
    assert written(found.ids, tokenizer).startswith("add;<|im_start|>user\none<|im_end|>")
    assert learned(found, tokenizer) == "5<|im_end|>\n|five<|im_end|>\n"


UNVERIFIED: dict[str, tuple[Callable[[], PreTrainedTokenizerBase], dict[str, Any], str]] = {
    "refused by the template": (
        llama_tokenizer, chat(("system", SECRET), ("assistant", "red")),
        "refuses the messages up to here (Conversation roles must alternate user/assistant)",
    ),
    "an answer before any question": (
        lambda: with_template("{{ messages[0].content + SECRET.x }}"),
        chat(("assistant", SECRET)), "the chat template refuses the messages up to here; see",
    ),
    "earlier turns rewritten": (
        lambda: with_template(CUTS_EARLIER_ANSWERS),
        chat(("user", "a"), ("assistant", SECRET), ("user", "b"), ("assistant", "red")),
        "message 2: the chat template writes this answer otherwise once later turns follow",
    ),
    "prompted otherwise": (
        lambda: with_template(CHATML.replace("<|im_start|>assistant\n{% endif", "<bot>{% endif")),
        chat(("user", "a"), ("assistant", SECRET)),
        "message 2: the chat template writes this answer otherwise than it prompts for one",
    ),
    "left out": (
        lambda: with_template(CHATML.replace("{{ message.content }}", "")),
        chat(("user", "a"), ("assistant", SECRET)), "leaves the answer's words out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNVERIFIED)
def test_a_mask_that_would_be_wrong_is_refused_with_its_row(case: str) -> None:
    tokenizer, row, message = UNVERIFIED[case]
    with pytest.raises(DataError) as caught:
        rendered(row, tokenizer())
    assert message in str(caught.value)
    assert str(caught.value).startswith("rows.jsonl: line 7")
    assert SECRET not in str(caught.value)


def test_an_earlier_answer_that_is_not_learned_may_be_rewritten() -> None:
    tokenizer = with_template(CUTS_EARLIER_ANSWERS)
    row = chat(("user", "a"), ("assistant", "red"), ("user", "b"), ("assistant", "blue"))
    row["messages"][1]["weight"] = 0
    assert learned(rendered(row, tokenizer), tokenizer) == "blue<|im_end|>\n"


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no list": ({"messages": SECRET}, "holds no list of messages"),
    "no object": ({"messages": [SECRET]}, "message 1: not an object"),
    "unknown role": (chat(("bot", SECRET)), "message 1: role is not one of system,"),
    "an image": (chat(("user", [{"type": "image"}])), "content is not text"),  # type: ignore[arg-type]
    "nothing said": (chat(("user", "")), "message 1: content is empty"),
    "a question's weight": (
        {"messages": [{"role": "user", "content": SECRET, "weight": 1}]}, "weight goes with role"),
    "too heavy": (
        {"messages": [{"role": "assistant", "content": SECRET, "weight": 3}]}, "from 0 to 1"),
    "arguments": (
        {"messages": [{"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": SECRET}}]}]}, "not valid JSON"),
    "tools": (chat(("user", "a")) | {"tools": "{}"}, "holds no list of tools"),
    "prompt as messages": (
        {"prompt": [{"role": "user"}], "completion": "a"}, "dataset.columns.messages"),
    "text as a number": ({"text": 5}, "holds a number, not text"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_row_of_another_form_is_named_and_never_quoted(case: str) -> None:
    row, message = BROKEN[case]
    with pytest.raises(DataError) as caught:
        example(row)
    assert message in str(caught.value)
    assert str(caught.value).startswith("rows.jsonl: line 7")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("row", [
    {"text": " "}, {"prompt": "a", "completion": ""}, chat(("user", "a")),
    {"messages": [{"role": "assistant", "content": "red", "weight": 0}]},
])  # fmt: skip
def test_a_row_without_an_answer_teaches_nothing(row: dict[str, Any]) -> None:
    columns = Columns.model_validate({name: name for name in row})
    assert not read_example(row, columns, "").teaches


def test_a_long_row_is_dropped_or_cut_at_the_end_that_the_policy_says() -> None:
    tokenizer = llama_tokenizer()
    renderer = Renderer(tokenizer, "m")
    row = renderer.render(example({"prompt": "one two three", "completion": " red blue"}), "")
    assert renderer.shortened(row, len(row.ids), Truncation.DROP) is row
    assert renderer.shortened(row, len(row.ids) - 1, Truncation.DROP) is None
    start = renderer.shortened(row, len(row.ids) - 1, Truncation.KEEP_START)
    end = renderer.shortened(row, len(row.ids) - 1, Truncation.KEEP_END)
    assert start is not None and end is not None  # noqa: PT018
    assert start.ids == row.ids[:-1]
    assert end.ids == row.ids[:1] + row.ids[2:], "BOS stays"
    assert (end.learned, start.learned) == (row.learned, row.learned - 1)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = from_tokenizer(gpt2_tokenizer().backend_tokenizer)
    with pytest.raises(UsageError, match="could not learn to stop; set eos_token"):
        Renderer(tokenizer, "m")


def test_rows_are_laid_out_with_what_is_learned_of_them_marked() -> None:
    tokenizer = chat_tokenizer()
    row = chat(("user", "one"), ("assistant", "red"), ("user", "two"), ("assistant", "blue"))
    row["messages"][1]["weight"] = 0.5
    text = rendered_text([("c7", rendered(row, tokenizer))], tokenizer)
    assert "=== row c7: " in text
    assert text.endswith(
        "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n⟦0.5 red<|im_end|>\n⟧"
        "<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n⟦blue<|im_end|>\n⟧\n"
    )
