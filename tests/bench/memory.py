"""Measures what a training step holds against what `finetune_api.footprint` says.

`make bench-memory` prints the table of docs/benchmarks.md. Every allocation of torch is counted, on
CPU ranks, in real trainings of random models. The estimate is compared without what it adds for a
device's runtime and an allocator's fragments, which no CPU has.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from finetune_api.datareport import ModelFacts
from finetune_api.footprint import ELEMENT, Shape, memory_per_rank
from finetune_api.report import Step
from finetune_api.run import Env, Run
from finetune_api.tasks import Task
from finetune_api.training import Offload, Precision
from finetune_trainer.data.prepare import prepare
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.models.facts import traced_model
from finetune_trainer.models.processors import load_processor
from finetune_trainer.models.step_trace import trace_step
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.place import Place, variables
from harness.digits import write_digits, write_processor
from harness.language import gpt2_tokenizer, llama_tokenizer
from harness.processes import free_port
from harness.tinymodel import tiny_tokenizer
from harness.trainer import a_run, an_environment

LENGTH = 128
SIDE = 64
"""Pixels on each side of an image."""
MICRO_BATCH = 8
STEPS = 5
_MIB = 1 << 20


@dataclass(frozen=True)
class Model:
    """A model of the table: its task, and what writes it with its processor."""

    name: str
    task: Task
    write: Callable[[Path], None]
    adaptable: bool = True
    recomputes: bool = True


def _saved(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Write a model with its tokenizer, or with a processor of images."""
    model.save_pretrained(folder)
    if tokenizer is None:
        write_processor(folder, size={"height": SIDE, "width": SIDE})
    else:
        tokenizer.save_pretrained(folder)


def _bert(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = BertConfig(
        vocab_size=8192,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=1024,
        max_position_embeddings=LENGTH,
        pad_token_id=tokenizer.pad_token_id,
    )
    _saved(folder, BertModel(config), tokenizer)


def _gpt2(folder: Path) -> None:
    config = GPT2Config(vocab_size=8192, n_positions=LENGTH, n_embd=256, n_layer=6, n_head=4)
    _saved(folder, GPT2LMHeadModel(config), gpt2_tokenizer())


def _llama(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
    )
    _saved(folder, LlamaForCausalLM(config), llama_tokenizer())


def _resnet(folder: Path) -> None:
    config = ResNetConfig(
        embedding_size=32, hidden_sizes=[64, 128, 256], depths=[2, 2, 2], layer_type="basic"
    )
    _saved(folder, ResNetModel(config))


def _vit(folder: Path) -> None:
    config = ViTConfig(
        image_size=SIDE,
        patch_size=8,
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=1024,
    )
    _saved(folder, ViTModel(config, add_pooling_layer=False))


MODELS = (
    Model("BERT", Task.TEXT_CLASSIFICATION, _bert),
    Model("GPT-2", Task.CAUSAL_LM, _gpt2),
    Model("Llama", Task.CAUSAL_LM, _llama),
    Model("ResNet", Task.IMAGE_CLASSIFICATION, _resnet, adaptable=False, recomputes=False),
    Model("ViT", Task.IMAGE_CLASSIFICATION, _vit),
)


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    model: Model
    lora: bool
    zero_stage: int
    ranks: int
    precision: Precision = Precision.FP32
    checkpointing: bool = False
    micro_batches: int = 1

    @property
    def name(self) -> str:
        extras = ", checkpointing" if self.checkpointing else ""
        extras += f", {self.micro_batches} micro-batches" if self.micro_batches > 1 else ""
        method = "LoRA" if self.lora else "full"
        return (
            f"{self.model.name} | {method}, {self.precision.value}{extras} | {self.zero_stage} | "
            f"{self.ranks}"
        )


def cases() -> Iterator[Case]:
    """Every model × method × stage × number of ranks, and the other settings once each."""
    for model, lora, stage, ranks in itertools.product(MODELS, (False, True), (0, 1, 2, 3), (1, 2)):
        if lora and not model.adaptable:
            continue
        yield Case(model, lora, stage, ranks)
    for model in MODELS:
        yield Case(model, False, 2, 2, precision=Precision.BF16)
        if model.recomputes:
            yield Case(model, False, 2, 2, checkpointing=True)
    for stage in (0, 1, 2, 3):
        yield Case(MODELS[0], False, stage, 2, micro_batches=2)


def _write_texts(folder: Path) -> None:
    """Rows of one file, each longer than a model reads."""
    folder.mkdir()
    words = " ".join(["the film story actor"] * LENGTH)
    rows = [{"text": f"{words} {number}", "label": "ab"[number % 2]} for number in range(120)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def prepared(model: Model, folder: Path, *, lora: bool) -> tuple[Run, ModelFacts]:
    """Write model and rows, and do the prepare step."""
    model.write(folder / "model")
    dataset: dict[str, Any] = {"train": "rows"}
    language = model.task is Task.CAUSAL_LM
    if model.task is Task.IMAGE_CLASSIFICATION:
        write_digits(folder / "rows", 400)
    else:
        _write_texts(folder / "rows")
    if language:
        dataset |= {"columns": {"text": "text"}}
    training: dict[str, Any] = {
        "epochs": None,
        "max_steps": STEPS,
        "max_length": None if model.task is Task.IMAGE_CLASSIFICATION else LENGTH,
        "dropout": None,
        "checkpoint_every_steps": 1000,
    }
    if language:
        training |= {"truncation": "keepStart", "packing": False}
    run = a_run(
        dataset=dataset,
        model="model",
        task=model.task,
        training=training,
        lora={} if lora else None,
    )
    environment = RankEnvironment.from_env(an_environment(folder, run, BASE=str(folder)))
    return run, prepare(environment, run).model


def measure(case: Case, run: Run, folder: Path) -> int:
    """Train, and return the most that rank 0 held, in bytes."""
    gang = run.gang.model_copy(update={"ranks_per_worker": case.ranks})
    training = run.training.model_copy(
        update={
            "zero_stage": case.zero_stage,
            "precision": case.precision,
            "activation_checkpointing": case.checkpointing,
            "global_batch_size": MICRO_BATCH * case.ranks * case.micro_batches,
            "micro_batch_size": MICRO_BATCH,
            "accumulation_steps": case.micro_batches,
        }
    )
    run = run.model_copy(update={"step": Step.TRAIN, "gang": gang, "training": training})
    subprocess.run(["rm", "-rf", str(folder / "workspace/checkpoints")], check=True)
    named = an_environment(folder, run, BASE=str(folder))
    named[Env.MASTER_PORT.value] = str(free_port())
    environment = RankEnvironment.from_env(named)
    answer = folder / "peak"
    ranks = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("measured_rank.py")),
             str(answer if place.is_first else folder / "other-peak"), str(STEPS)],
            env=variables(place, environment, gang, {**os.environ, **named}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for place in (Place.of(gang, 0, rank) for rank in range(case.ranks))
    ]  # fmt: skip
    for rank in ranks:
        _, said = rank.communicate()
        if rank.returncode:
            raise SystemExit(f"{case.name}: {said.decode()[-2000:]}")
    return int(answer.read_text())


def estimated(case: Case, run: Run, folder: Path, facts: ModelFacts) -> int:
    """What the formulas say of the same step, in bytes.

    It is traced as a CPU computes it, whose dropout and attention keep more than a GPU's.
    """
    head = FORMS[run.task].head
    model = folder / "model"
    processor = load_processor(model, "model", head)
    traced = traced_model(
        model, "model", head, facts.classes, run.training, run.model.adaptation, processor
    )
    element = ELEMENT[case.precision]
    as_computed = replace(traced, fused=False, gathered=case.lora and case.zero_stage == 3)
    trace = trace_step(as_computed, element=element, recomputed=case.checkpointing)
    facts = facts.model_copy(update={"trace": trace, "gathered_trace": None})
    found = memory_per_rank(
        facts,
        Shape(
            zero_stage=case.zero_stage,
            world_size=case.ranks,
            precision=case.precision,
            micro_batch_size=MICRO_BATCH,
            sequence_length=LENGTH if facts.image is None else 1,
            accumulation_steps=case.micro_batches,
            activation_checkpointing=case.checkpointing,
            offload=Offload.NONE,
        ),
    )
    return found.total - found.fragmentation - found.runtime


def main() -> None:
    """Print the table, a line as soon as it is there, and the worst of it."""
    say = partial(print, flush=True)
    say("| model | how | ZeRO | ranks | measured, MiB | estimated, MiB | estimated / measured |")
    say("| --- | --- | --- | --- | --- | --- | --- |")
    ratios: list[float] = []
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as scratch:
        ready: dict[tuple[str, bool], tuple[Run, ModelFacts, Path]] = {}
        for case in cases():
            if only not in case.name:
                continue
            key = (case.model.name, case.lora)
            if key not in ready:
                folder = Path(scratch) / f"{case.model.name}-{case.lora}"
                folder.mkdir()
                ready[key] = (*prepared(case.model, folder, lora=case.lora), folder)
            run, facts, folder = ready[key]
            measured, guess = measure(case, run, folder), estimated(case, run, folder, facts)
            ratio = guess / measured
            ratios.append(ratio)
            say(f"| {case.name} | {measured / _MIB:.1f} | {guess / _MIB:.1f} | {ratio:.2f} |")
    say(f"\n{len(ratios)} shapes: estimated / measured is {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
