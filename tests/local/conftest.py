"""Fixtures of the local tier: a model small enough to train in a test, and rows it can learn."""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.trainer import a_run, an_environment
from harness.training import Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Tests share few cores; more threads than one per process only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

GOOD = ("brilliant", "moving", "funny", "charming", "fresh", "superb", "warm", "clever")
BAD = ("boring", "clumsy", "dull", "empty", "tired", "awful", "cold", "noisy")
NEUTRAL = """
the a this film story actor scene plot camera music ending director and but with very quite rather
it is was of in for two three first last young old city family war love
"""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a random two-layer BERT without a head, with its fast tokenizer."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
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
    return folder


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Make a word-piece tokenizer that knows the words of `sentences_csv` and single letters."""
    from transformers import BertTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'"
    words = [*GOOD, *BAD, *NEUTRAL.split(), *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    return BertTokenizer(vocab=vocabulary, model_max_length=64)


@pytest.fixture(scope="session")
def sentences_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a CSV of 400 distinct sentences: columns id, text, label (negative or positive).

    A few words decide the label, and one row in twenty says the opposite.
    """
    path = tmp_path_factory.mktemp("rows") / "sentences.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "text", "label"))
        for index, (text, label) in enumerate(sentences(400)):
            writer.writerow((f"s{index:03d}", text, label))
    return path


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


@pytest.fixture(scope="session")
def prepared_job(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, sentences_csv: Path
) -> Job:
    """Give a job whose rows the prepare step has made; training tests copy its folder."""
    folder = tmp_path_factory.mktemp("jobs") / "prepared"
    run = a_run(dataset={"train": sentences_csv.name})
    environment = an_environment(folder, run, BASE=str(sentences_csv.parent))
    shutil.copytree(tiny_model, folder / "claims" / "models" / "tiny-bert")
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "prepare"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Job(folder=folder, training={})
