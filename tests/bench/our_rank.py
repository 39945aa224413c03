"""Our training as a rank does it, timed block by block; `trainer.py` starts it."""

from __future__ import annotations

import os
import sys

from bench.turns import Turns
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.imports import importing
from finetune_trainer.reporting.events import Event, Stepped
from finetune_trainer.training.channel import Channel
from finetune_trainer.training.place import Place
from finetune_trainer.training.stop import StopRequest


def main(block_steps: int) -> None:
    """Train, and tell of each block what it took; events go where a launcher would read them."""
    with importing():
        from finetune_trainer.training.session import train
    turns = Turns()
    channel = Channel(os.open(os.devnull, os.O_WRONLY))
    block: list[Stepped] = []

    def hear(event: Event) -> None:
        channel.send(event)
        if not isinstance(event, Stepped):
            return
        block.append(event)
        if len(block) == block_steps:
            loss = sum(one.loss for one in block) / block_steps
            tokens = sum(one.tokens for one in block)
            block.clear()
            turns.done(loss, tokens)

    environment = RankEnvironment.from_env(os.environ)
    train(environment, environment.load_run(), Place.from_env(os.environ), StopRequest(), hear)


if __name__ == "__main__":
    main(int(sys.argv[1]))
