"""A model small enough to train in a test, and rows that it can learn. For tiers that train."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GOOD = ("brilliant", "moving", "funny", "charming", "fresh", "superb", "warm", "clever")
BAD = ("boring", "clumsy", "dull", "empty", "tired", "awful", "cold", "noisy")
NEUTRAL = """
the a this film story actor scene plot camera music ending director and but with very quite rather
it is was of in for two three first last young old city family war love
"""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tiny_model(folder: Path) -> None:
    """Write a random two-layer BERT without a head, with its fast tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = tiny_tokenizer()
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Make a word-piece tokenizer that knows the words of `write_sentences` and single letters."""
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
    words = [*GOOD, *BAD, *NEUTRAL.split(), *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    return BertTokenizer(vocab=vocabulary, model_max_length=64)


def write_sentences(path: Path, rows: int = 400) -> None:
    """Write a CSV of distinct sentences: columns id, text, label (negative or positive).

    A few words decide the label, and one row in twenty says the opposite.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "label"))
        for index, (text, label) in enumerate(sentences(rows)):
            writer.writerow((f"s{index:03d}", text, label))


def sentences(rows: int, seed: int = 11) -> list[tuple[str, str]]:
    """Make distinct sentences with their labels, balanced but for one flipped in twenty."""
    chance = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < rows:
        positive = len(made) % 2 == 0
        words = chance.choices(NEUTRAL.split(), k=chance.randint(5, 14))
        words += chance.sample(GOOD if positive else BAD, k=chance.randint(2, 3))
        chance.shuffle(words)
        flipped = chance.random() < 1 / 20
        made.setdefault(" ".join(words), "positive" if positive != flipped else "negative")
    return list(made.items())
