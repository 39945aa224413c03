"""One rank of a training whose every allocation is counted; `memory.py` starts it.

Writes the most bytes that torch had allocated at once between the beginning of the first step and
the end of the last, to the file that it is given.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from finetune_trainer.environment import RankEnvironment
from finetune_trainer.reporting.events import Event, Planned, Stepped
from finetune_trainer.training.place import Place
from finetune_trainer.training.session import train
from finetune_trainer.training.stop import StopRequest


def main(answer: Path, last_step: int) -> None:
    """Train as a rank does, and count until the last step is done."""
    environment = RankEnvironment.from_env(os.environ)
    # From before the model is there: the allocator counts only while it is watched.
    watch = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    watch.start()
    began = 0

    def hear(event: Event) -> None:
        nonlocal began
        if isinstance(event, Planned):
            began = time.time_ns()
        if isinstance(event, Stepped) and event.step == last_step:
            watch.stop()

    run = environment.load_run()
    train(environment, run, Place.from_env(os.environ), StopRequest(), hear)
    trace = answer.with_suffix(".trace")
    watch.export_chrome_trace(str(trace))
    answer.write_text(str(_peak(json.loads(trace.read_text()), began)))
    trace.unlink()


def _peak(trace: dict[str, object], began: int) -> int:
    """The most bytes that stood allocated at any time after ``began`` (ns since the epoch).

    Added up here: the profiler's own total lacks weights that are mapped from their file.
    """
    base = int(str(trace.get("baseTimeNanoseconds", 0)))
    events = trace["traceEvents"]
    assert isinstance(events, list)
    memory = [event for event in events if event.get("name") == "[memory]"]
    held: dict[int, int] = {}
    total = peak = 0
    for event in sorted(memory, key=lambda event: float(event["ts"])):
        size, address = int(event["args"]["Bytes"]), int(event["args"]["Addr"])
        total -= held.pop(address, 0)
        if size > 0:
            held[address] = size
            total += size
        if base + float(event["ts"]) * 1000 >= began:
            peak = max(peak, total)
    return peak


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]))
