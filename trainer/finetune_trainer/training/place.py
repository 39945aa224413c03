"""Where a rank stands in its gang, and the variables that tell torch and DeepSpeed the same.

The launcher makes them, the rank reads them.
"""

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_api.run import Gang
from finetune_trainer.environment import RankEnvironment


@dataclass(frozen=True, kw_only=True)
class Place:
    """One rank: its number in the gang and on its worker, and how many there are of each."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int

    @classmethod
    def of(cls, gang: Gang, worker: int, local_rank: int) -> "Place":
        """The place of a worker's rank; ranks are numbered worker by worker."""
        return cls(
            rank=worker * gang.ranks_per_worker + local_rank,
            world_size=gang.world_size,
            local_rank=local_rank,
            local_world_size=gang.ranks_per_worker,
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Place":
        """Read what ``variables`` wrote."""
        return cls(
            rank=int(environ["RANK"]),
            world_size=int(environ["WORLD_SIZE"]),
            local_rank=int(environ["LOCAL_RANK"]),
            local_world_size=int(environ["LOCAL_WORLD_SIZE"]),
        )

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0 of the gang, which writes what is written once."""
        return self.rank == 0


def variables(
    place: Place, environment: RankEnvironment, gang: Gang, inherited: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a rank: what it inherits, its place, and the rendezvous."""
    made = {
        **inherited,
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "MASTER_ADDR": environment.master_addr,
        "MASTER_PORT": str(environment.master_port),
        # A rank's last words must not stay in a buffer when it is killed.
        "PYTHONUNBUFFERED": "1",
    }
    # In whole minutes.
    made["DEEPSPEED_TIMEOUT"] = str(math.ceil(environment.collective_seconds / 60))
    made.setdefault("TOKENIZERS_PARALLELISM", "false")
    if gang.device == "cpu":
        # Left to themselves, ranks on one machine would each start a thread per core.
        made.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // place.local_world_size)))
        made["DS_ACCELERATOR"] = "cpu"
        made["CUDA_VISIBLE_DEVICES"] = ""
    loopback = _loopback_interface()
    if loopback and environment.master_addr in {"127.0.0.1", "localhost", "::1"}:
        # Gloo would bind to whatever the host's name resolves to.
        made.setdefault("GLOO_SOCKET_IFNAME", loopback)
    return made


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _loopback_interface() -> str | None:
    names = {name for _, name in socket.if_nameindex()}
    return next((name for name in ("lo", "lo0") if name in names), None)
