"""Language models small enough to train in a test, their tokenizers, and chats they can learn.

Used by `tests/local/test_language_*.py`.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template as many models have it: no mark of what is generated."""

ROLES_IN_TURN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""A template that refuses rows, opens with BOS, and prompts for an answer by nothing at all."""

COLORS = "red blue green black white pink gray brown".split()
NUMBERS = "one two three four five six seven eight".split()
_CORPUS = [
    *COLORS,
    *NUMBERS,
    "what follows ? it is the and then after . user assistant system tool say again",
    "[INST] [/INST] question: answer: reply in order please ok hello world 0 1 2 3 4 5 6 7 8 9",
]


@functools.cache
def gpt2_tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level BPE that adds nothing to a text; its padding is its end-of-text token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [f" {word}" for line in _CORPUS for word in line.split()] + _CORPUS,
        trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return from_tokenizer(tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@functools.cache
def chat_tokenizer() -> PreTrainedTokenizerBase:
    """The same with a chat template whose turns end in the tokenizer's end-of-text token."""
    return with_template(CHATML)


def with_template(template: str, end: str = "<|im_end|>") -> PreTrainedTokenizerBase:
    """Byte-level BPE with a chat template; it pads with its end-of-text token."""
    made = from_tokenizer(
        Tokenizer.from_str(gpt2_tokenizer().backend_tokenizer.to_str()),
        bos_token="<|endoftext|>",
        eos_token=end,
        pad_token=end,
    )
    made.chat_template = template
    return made


def from_tokenizer(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerBase:
    """A fast tokenizer of transformers around one of the tokenizers library."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, model_max_length=256, **special
    )


@functools.cache
def llama_tokenizer() -> PreTrainedTokenizerBase:
    """BPE with `▁` for spaces, which puts BOS before a text, and a template that does so too."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(
            vocab_size=360,
            special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    made = from_tokenizer(tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.chat_template = ROLES_IN_TURN
    return made


def a_gpt2(tokenizer: PreTrainedTokenizerBase, seed: int = 7) -> PreTrainedModel:
    """A random GPT-2 of two layers, without dropout."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=128,
            n_embd=48,
            n_layer=2,
            n_head=2,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def a_llama(tokenizer: PreTrainedTokenizerBase, seed: int = 7) -> PreTrainedModel:
    """A random Llama of two layers with fewer key than query heads."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def saved(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """The model's folder as its maker would publish it."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chats(rows: int, seed: int = 3) -> list[dict[str, Any]]:
    """Distinct chats whose answer follows from their last question, in one turn or in two."""
    chance = random.Random(seed)
    made: dict[str, dict[str, Any]] = {}
    while len(made) < rows:
        turns = [_turn(chance) for _ in range(chance.choice((1, 1, 2)))]
        messages = [one for turn in turns for one in turn]
        made.setdefault(str(messages), {"id": f"c{len(made):03d}", "messages": messages})
    return list(made.values())


def _turn(chance: random.Random) -> list[dict[str, str]]:
    """A question of random words, and the first of its colors twice as the answer."""
    colors = chance.choices(COLORS, k=chance.randint(1, 2))
    words = chance.choices(NUMBERS, k=chance.randint(1, 3))
    asked = [colors[0], *words, *colors[1:]]
    return [
        {"role": "user", "content": " ".join(asked)},
        {"role": "assistant", "content": f"{colors[0]} {colors[0]}"},
    ]
