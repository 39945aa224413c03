"""Scoring of many rows, ours and by a plain `Trainer.predict`: what is compared, and its memory.

Run as a program it scores the rows of a folder once, and prints by how many bytes the process grew.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from numpy.typing import NDArray
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from bench.lengths import row_lengths
from finetune_trainer.evaluation.inference import Places, row_logits, score_rows
from finetune_trainer.evaluation.likelihood import row_likelihoods
from finetune_trainer.training.language_rows import TOKEN_WEIGHTS, LanguageBatches
from finetune_trainer.training.rows import Batch, ClassBatches, Padding, PreparedRows

BATCH_ROWS = 32
_LANGUAGE_LOGITS = 1 << 22
_LOOK_SECONDS = 0.002
Logits = NDArray[np.float32]


def write_test_rows(folder: Path, rows: int, longest: int, vocabulary: int) -> None:
    """Write token rows of the stated lengths, as the prepare step lays them out for both tasks."""
    chance = np.random.RandomState(3)
    ids = [chance.randint(10, vocabulary, length) for length in row_lengths(rows, longest)]
    columns = {
        "row_id": [f"r{number}" for number in range(rows)],
        "input_ids": ids,
        "attention_mask": [np.ones_like(one) for one in ids],
        TOKEN_WEIGHTS: [np.r_[0.0, np.ones(len(one) - 1)] for one in ids],
        "label": chance.randint(0, 2, rows),
    }
    Dataset.from_dict(columns).save_to_disk(str(folder))


def ways_of_scoring(model_folder: Path, rows_folder: Path) -> dict[str, Callable[[], Logits]]:
    """A classifier's logits of all rows in their order: three ways to the same figures.

    ``plain`` and ``unsorted`` take 32 rows at once as they come; ``ours`` is the evaluate step's.
    """
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    rows = load_from_disk(str(rows_folder))
    assert isinstance(rows, Dataset)
    collation = ClassBatches(Padding(int(tokenizer.pad_token_id)))
    settings = TrainingArguments(
        output_dir=str(rows_folder / "predict"),
        per_device_eval_batch_size=BATCH_ROWS,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    # Ready beforehand, so that only the scoring is timed.
    trainer = Trainer(model=model, args=settings, data_collator=DataCollatorWithPadding(tokenizer))
    data = rows.select_columns(["input_ids", "attention_mask", "label"])

    def plain() -> Logits:
        return np.asarray(trainer.predict(data).predictions, dtype=np.float32)

    return {
        "plain": plain,
        "unsorted": lambda: _as_they_come(model, rows, collation),
        "ours": lambda: row_logits(model, rows, collation),
    }


def _as_they_come(model: PreTrainedModel, rows: Dataset, collation: ClassBatches) -> Logits:
    logits = np.zeros((len(rows), 2), dtype=np.float32)

    def take(
        places: Places, _: Batch, output: Any
    ) -> None:  # a model's outputs have no common type
        logits[places] = output.logits.float().cpu().numpy()

    places = np.arange(len(rows))
    batches = [places[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
    score_rows(model, PreparedRows(rows, collation), batches, take)
    return logits


class Growth:
    """How much more memory of its own a process holds at the most than it did at the beginning."""

    def __init__(self) -> None:
        self._began = self.most = _held()
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.most = max(self.most, _held())

    def end(self) -> int:
        """Bytes."""
        self._over.set()
        self._watch.join()
        return self.most - self._began


def _held() -> int:
    """Bytes of this process that are no file's: rows are mapped from theirs, which is no cost."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status: no RssAnon; Linux is needed")


def main(model_folder: Path, rows_folder: Path, task: str) -> None:
    """Score once, and print by how much the process grew."""
    torch.set_num_threads(1)
    rows = load_from_disk(str(rows_folder))
    assert isinstance(rows, Dataset)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    padding = Padding(int(tokenizer.pad_token_id))
    if task == "language":
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        growth = Growth()
        row_likelihoods(model, rows, LanguageBatches(padding), _LANGUAGE_LOGITS)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(
            model_folder, dtype=torch.float32
        )
        growth = Growth()
        row_logits(model, rows, ClassBatches(padding))
    sys.stdout.write(f"{growth.end()}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
