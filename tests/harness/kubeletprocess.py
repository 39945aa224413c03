"""What a story sees of the container that it plays: its surroundings, its signal, its port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from finetune_api.run import Env, Run
from harness.kubeletnode import Node
from harness.kubeletserver import PodServer


@dataclass(frozen=True, kw_only=True)
class Process:
    """A container that runs."""

    uid: str
    """Of its pod."""
    name: str
    started: datetime
    env: Mapping[str, str]
    run: Run | None
    sigterm: asyncio.Event
    """Set when it is asked to end; never for one that is deaf to it."""
    server: PodServer
    node: Node

    @property
    def attempt(self) -> int:
        """The number that its pod was released with."""
        return int(self.env[Env.ATTEMPT])

    @property
    def worker(self) -> int:
        """Its index in the gang."""
        return int(self.env[Env.WORKER])

    @property
    def is_reachable(self) -> bool:
        """Whether its node has a network."""
        return self.node.connected.is_set()

    async def sleep(self, seconds: float) -> bool:
        """Let time pass; False if it is asked to end meanwhile."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.sigterm.wait(), seconds)
        return not self.sigterm.is_set()
