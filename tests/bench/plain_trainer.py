"""The same training by Hugging Face's own Trainer, as its documentation has it.

The stock class, the stock collators, the rows that the prepare step made, in the order in which our
trainer takes them. `trainer.py` starts it, with the folder of a prepared job and its run.
Nothing of ours is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    DefaultDataCollator,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from bench.turns import Turns

_MODELS = {
    "text-classification": AutoModelForSequenceClassification,
    "causal-lm": AutoModelForCausalLM,
    "image-classification": AutoModelForImageClassification,
}


class Timing(TrainerCallback):
    """Tells what each block of steps took; its loss is the one that the Trainer logs."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002 - as the Trainer calls it
        state: TrainerState,  # noqa: ARG002 - likewise
        control: TrainerControl,  # noqa: ARG002 - likewise
        **more: Any,  # the Trainer's parts, and what it logs
    ) -> None:
        """A block is done."""
        if "loss" in more["logs"]:
            self._turns.done(float(more["logs"]["loss"]))


def main(folder: Path, run_file: Path, block_steps: int) -> None:
    """Train with the run's settings."""
    turns = Turns()
    run = json.loads(run_file.read_bytes())
    task, training = run["task"], run["training"]
    steps = int(training["maxSteps"])
    rows = load_from_disk(str(folder / "workspace/data/prepared/train"))
    assert isinstance(rows, Dataset)
    order = _order(len(rows), training["seed"])
    model_folder = folder / "model"
    collator: Any
    data: Any
    if task == "image-classification":
        collator, data = DefaultDataCollator(), _images(rows, order, model_folder)
    else:
        tokenizer = AutoTokenizer.from_pretrained(model_folder)
        wanted = ["input_ids"]
        if task == "causal-lm":
            collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
        else:
            collator = DataCollatorWithPadding(tokenizer)
            wanted = [*wanted, "attention_mask", "label"]
        data = rows.select(order).select_columns(
            [one for one in wanted if one in rows.column_names]
        )
    Trainer(
        model=_MODELS[task].from_pretrained(model_folder, dtype=torch.float32),
        args=TrainingArguments(
            output_dir=str(folder / "plain"),
            max_steps=steps,
            per_device_train_batch_size=training["microBatchSize"],
            gradient_accumulation_steps=training["accumulationSteps"],
            learning_rate=training["learningRate"],
            lr_scheduler_type=training["scheduler"],
            warmup_steps=-int(-steps * training["warmupRatio"] // 1),
            weight_decay=training["weightDecay"],
            max_grad_norm=training["maxGradNorm"],
            bf16=training["precision"] == "bf16",
            seed=training["seed"],
            train_sampling_strategy="sequential",
            use_cpu=True,
            logging_steps=block_steps,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=data,
        data_collator=collator,
        callbacks=[Timing(turns)],
    ).train()


def _order(rows: int, seed: int) -> list[int]:
    """The first epoch as our trainer goes through it (``training.plan``)."""
    order: list[int] = np.random.RandomState([seed, 0]).permutation(rows).tolist()
    return order


def _images(rows: Dataset, order: list[int], model_folder: Path) -> list[dict[str, Any]]:
    """Every image scaled beforehand and kept in memory: the least that a Trainer can be given."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(model_folder)  # type: ignore[no-untyped-call]  # no types
    side = int(processor.size["height"])
    mean, spread = (
        np.asarray(one)[:, None, None] for one in (processor.image_mean, processor.image_std)
    )
    made = []
    for row in order:
        one = rows[row]
        pixels = np.frombuffer(one["pixels"], dtype=np.uint8).reshape(3, side, side)
        scaled = (pixels * processor.rescale_factor - mean) / spread
        made.append(
            {"pixel_values": torch.from_numpy(scaled.astype(np.float32)), "labels": one["label"]}
        )
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
