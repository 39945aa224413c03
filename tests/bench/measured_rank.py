"""One rank of a training whose every allocation is counted; `memory.py` starts it.

Writes the most bytes that torch had allocated at once in a step, to the file that it is given: the
lower median over the steps after the first, in which AdamW has no moments yet and DeepSpeed still
learns in what order weights are used.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from finetune_trainer.environment import RankEnvironment
from finetune_trainer.reporting.events import Event, Planned, Stepped
from finetune_trainer.training.place import Place
from finetune_trainer.training.session import train
from finetune_trainer.training.stop import StopRequest

_OVERLOOKED_BYTES = 1 << 20


class Mark(NamedTuple):
    """Between two steps: when (ns since the epoch), and the sizes of all that is alive."""

    at: int
    alive: dict[int, int]


class Change(NamedTuple):
    """An allocation, or with a negative size its end."""

    at: float
    address: int
    size: int


def main(answer: Path, last_step: int) -> None:
    """Train as a rank does, and count until the last step is done."""
    environment = RankEnvironment.from_env(os.environ)
    watch = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    marks: list[Mark] = []

    def hear(event: Event) -> None:
        if isinstance(event, Planned):
            watch.start()
        if isinstance(event, Planned | Stepped) and len(marks) <= last_step:
            marks.append(Mark(time.time_ns(), _alive()))
        if isinstance(event, Stepped) and event.step == last_step:
            watch.stop()

    run = environment.load_run()
    train(environment, run, Place.from_env(os.environ), StopRequest(), hear)
    trace = answer.with_suffix(".trace")
    watch.export_chrome_trace(str(trace))
    peaks = list(_peaks(marks, _changes(json.loads(trace.read_text()))))
    trace.unlink()
    answer.write_text(str(statistics.median_low(peaks[1:])))


def _alive() -> dict[int, int]:
    """Sizes of all that torch holds, by address; what is mapped from a file as large as the file.

    Taken anew for each step, since the profiler overlooks what another thread frees: a collective's
    may be the last to let go of what it sent.
    """
    found: dict[int, int] = {}
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            for tensor in (one, one.grad if one.is_leaf else None):
                if tensor is not None and not tensor.is_meta:
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def _changes(trace: dict[str, object]) -> Iterator[Change]:
    """What was allocated and freed, in order."""
    base = int(str(trace.get("baseTimeNanoseconds", 0)))
    events = trace["traceEvents"]
    assert isinstance(events, list)
    memory = [event for event in events if event.get("name") == "[memory]"]
    for event in sorted(memory, key=lambda event: float(event["ts"])):
        size, address = int(event["args"]["Bytes"]), int(event["args"]["Addr"])
        yield Change(base + float(event["ts"]) * 1000, address, size)


def _peaks(marks: Sequence[Mark], changes: Iterator[Change]) -> Iterator[int]:
    """The most bytes that stood allocated at once, of each step."""
    ordered = list(changes)
    for began, ended in pairwise(marks):
        held = dict(began.alive)
        total = peak = sum(held.values())
        overlooked = 0
        for change in ordered:
            if not began.at <= change.at < ended.at:
                continue
            known = held.pop(change.address, None)
            total -= known or 0
            if change.size > 0:
                held[change.address] = change.size
                total += change.size
            elif known is None:
                overlooked -= change.size
            peak = max(peak, total)
        if overlooked > _OVERLOOKED_BYTES:
            raise SystemExit(f"{overlooked} bytes were freed that nobody knew to be alive")
        yield peak


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
