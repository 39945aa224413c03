"""Measures our trainer against a plain Hugging Face Trainer at equal settings.

`make bench-trainer` runs every story, `make bench-trainer STORY=language` one of them. Contenders
take turns on the same rows, so that a ratio holds on a machine that others use too; figures are of
this machine, ratios are what is compared. One thread each.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
import transformers

from bench.contenders import (
    Contender,
    Rounds,
    environ,
    our_start,
    ours,
    plain,
    plain_start,
)
from bench.paired import speed_ratio
from bench.scoring import ways_of_scoring, write_test_rows
from bench.turns import Block
from bench.workloads import (
    Workload,
    classification,
    images,
    language,
    write_classifier,
    write_language_model,
)

GOAL = 0.97
PACKED_GOAL = 2.5
EVALUATION_GOAL = 1.0
SORTED_GOAL = 1.5
LONGEST_TEXT = 512
SCORED_ROWS = 320
SCORINGS = 20
_MIB = 1 << 20
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
START_GOAL = 1 / 1.1
STARTS = 10
say = partial(print, flush=True)


def blocks_of(contenders: list[Contender], rounds: Rounds) -> dict[str, list[Block]]:
    """Give each its turns, in one order and the other; the same steps, and so the same rows."""
    first = {one.name: one.turn() for one in contenders}
    losses = [block.loss for block in first.values()]
    if max(losses) - min(losses) > 0.01 * max(losses):
        raise SystemExit(f"not the same work: the first block's loss is {first}")
    made: dict[str, list[Block]] = {one.name: [] for one in contenders}
    for number in range(rounds.count):
        for one in contenders if number % 2 == 0 else reversed(contenders):
            made[one.name].append(one.turn())
    return made


def compare(blocks: dict[str, list[Block]], name: str, other: str, goal: float | None) -> None:
    """Print how fast ``name`` was beside ``other``, by the clock and by the processor's time."""
    clock = speed_ratio(*([one.seconds for one in blocks[who]] for who in (name, other)))
    cpu = speed_ratio(*([one.cpu_seconds for one in blocks[who]] for who in (name, other)))
    verdict = "" if goal is None else f"; {clock.against(goal)}"
    say(f"  {name} / {other}: {clock}{verdict}; of processor time {cpu}")


def rates(blocks: dict[str, list[Block]], rows_per_block: int) -> None:
    """Print rows and real tokens per second; every contender saw the same rows."""
    tokens = sum(one.tokens for one in blocks["ours"])
    for name, made in blocks.items():
        seconds = sum(one.seconds for one in made)
        real = f", {tokens / seconds:,.0f} real tokens/s" if tokens else ""
        say(f"  {name}: {len(made) * rows_per_block / seconds:,.1f} rows/s{real}")


def text(scratch: Path) -> None:
    """Text classification, padded."""
    against_plain(classification, scratch)


def pictures(scratch: Path) -> None:
    """Image classification."""
    against_plain(images, scratch)


def against_plain(made: Callable[..., Workload], scratch: Path) -> None:
    """Compare the two trainers at what ``made`` gives for a folder and a number of steps."""
    rounds = Rounds(count=30, block_steps=2)
    workload = made(scratch, steps=rounds.steps)
    with plain(workload, rounds) as theirs, ours("ours", workload, rounds) as own:
        blocks = blocks_of([theirs, own], rounds)
    rates(blocks, rounds.block_steps * workload.run.training.global_batch_size)
    compare(blocks, "ours", "plain", GOAL)


def causal(scratch: Path) -> None:
    """Causal language models, padded and packed."""
    _padded_and_packed(language, scratch, Rounds(count=60, block_steps=1))


def small_micro_batches(scratch: Path) -> None:
    """The same with 32 rows a step, eight at once: less is padded, and packing saves less."""
    made = partial(language, batch=32, micro_batch=8)
    _padded_and_packed(made, scratch, Rounds(count=20, block_steps=1))


def _padded_and_packed(made: Callable[..., Workload], scratch: Path, rounds: Rounds) -> None:
    workload = made(scratch, steps=rounds.steps)
    packed = workload.copied(scratch / "packed", packing=True)
    with ExitStack() as ending:
        contenders = [
            ending.enter_context(plain(workload, rounds)),
            ending.enter_context(ours("ours", workload, rounds)),
            ending.enter_context(ours("packed", packed, rounds)),
        ]
        blocks = blocks_of(contenders, rounds)
    rates(blocks, rounds.block_steps * workload.run.training.global_batch_size)
    compare(blocks, "ours", "plain", GOAL)
    compare(blocks, "packed", "ours", PACKED_GOAL)


def start(scratch: Path) -> None:
    """From the start of the process to the end of the first step, launcher and rank."""
    workload = classification(scratch, steps=3)
    made: dict[str, list[Block]] = {"ours": [], "plain": []}
    for number in range(-1, STARTS):
        # The first of each only fills the machine's cache of files.
        for name in ("ours", "plain") if number % 2 == 0 else ("plain", "ours"):
            took = our_start(workload, number + 2) if name == "ours" else plain_start(workload)
            if number >= 0:
                made[name].append(took)
    for name, starts in made.items():
        seconds = statistics.median(one.seconds for one in starts)
        cpu_seconds = statistics.median(one.cpu_seconds for one in starts)
        say(f"  {name}: {seconds:.2f} s to the first step, {cpu_seconds:.2f} s of processor time")
    compare(made, "ours", "plain", START_GOAL)


def evaluation(scratch: Path) -> None:
    """Scoring in the evaluate step: rows per second, and memory over rows."""
    torch.set_num_threads(1)
    write_classifier(scratch / "bert", LONGEST_TEXT)
    write_language_model(scratch / "llama")
    for count in (SCORED_ROWS, 4 * SCORED_ROWS):
        write_test_rows(scratch / f"{count}", count, LONGEST_TEXT, vocabulary=2048)
    ways = ways_of_scoring(scratch / "bert", scratch / f"{SCORED_ROWS}")
    logits = {name: way() for name, way in ways.items()}
    made: dict[str, list[Block]] = {name: [] for name in ways}
    for number in range(SCORINGS):
        for name in ways if number % 2 == 0 else reversed(ways):
            began, cpu_began = time.perf_counter(), time.process_time()
            ways[name]()
            took = time.perf_counter() - began, time.process_time() - cpu_began
            made[name].append(Block(*took))
    for name, blocks in made.items():
        seconds = sum(one.seconds for one in blocks)
        gap = float(abs(logits[name] - logits["plain"]).max())
        say(
            f"  {name}: {SCORED_ROWS * SCORINGS / seconds:,.1f} rows/s; logits at most {gap:.0e} "
            "from plain's"
        )
    compare(made, "unsorted", "plain", EVALUATION_GOAL)
    compare(made, "ours", "unsorted", SORTED_GOAL)
    for task, model in (("classification", "bert"), ("language", "llama")):
        grown = [
            growth_of_scoring(scratch / model, scratch / f"{count}", task)
            for count in (SCORED_ROWS, 4 * SCORED_ROWS)
        ]
        say(
            f"  memory, {task}: {grown[0] / _MIB:.1f} MiB for {SCORED_ROWS} rows, "
            f"{grown[1] / _MIB:.1f} MiB for {4 * SCORED_ROWS}"
        )


def growth_of_scoring(model: Path, rows: Path, task: str) -> int:
    """Bytes by which a fresh process grows while it scores rows.

    The allocator gives back what is freed: left to itself it keeps some, more or less by chance.
    """
    command = [sys.executable, "-m", "bench.scoring", str(model), str(rows), task]
    done = subprocess.run(
        command, env=environ() | _GIVE_BACK, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return int(done.stdout)


STORIES: dict[str, Callable[[Path], None]] = {
    "classification": text,
    "language": causal,
    "language-micro-8": small_micro_batches,
    "images": pictures,
    "start": start,
    "evaluation": evaluation,
}


def main() -> None:
    """Run the stories that are named, or all."""
    names = sys.argv[1:] or list(STORIES)
    if unknown := set(names) - set(STORIES):
        raise SystemExit(f"no story {sorted(unknown)}; there are {', '.join(STORIES)}")
    say(
        f"{platform.machine()}, {os.cpu_count()} cores, one thread each, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    for name in names:
        say(f"{name}: {STORIES[name].__doc__}")
        with tempfile.TemporaryDirectory() as scratch:
            STORIES[name](Path(scratch))


if __name__ == "__main__":
    main()
