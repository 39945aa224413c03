"""What this machine offers to a local run, found out without importing torch."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_operator.core.observed import EngineFacts
from finetune_operator.cost.pods import Placement

LOOK_SECONDS = 1.0
"""The longest time between two looks at a running job."""
_QUERY_SECONDS = 20
_MEBIBYTE = 2**20


def cores() -> int:
    """Processors that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def accelerators() -> tuple[str, ...]:
    """Product names of the NVIDIA devices that may be used here, as node labels have them."""
    names = _asked_products() or _device_nodes()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return names
    chosen = [item for item in visible.split(",") if item.strip() and item.strip() != "-1"]
    return names[: len(chosen)]


def visible_devices(first: int, count: int) -> str:
    """CUDA_VISIBLE_DEVICES for ``count`` of the usable devices, from the ``first`` on."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = (
        [str(index) for index in range(first + count)] if visible is None else visible.split(",")
    )
    return ",".join(name.strip() for name in names[first : first + count])


def facts(job: FineTuneJob) -> EngineFacts:
    """What this machine is to the core, for this job."""
    wants_gpus = job.spec.compute.gpus_per_worker > 0
    devices = accelerators() if wants_gpus else ()
    node = socket.gethostname() or "localhost"
    placement = Placement(
        node=node,
        device=devices[0] if devices else "cpu",
        milli_devices=1000,
        local=True,
    )
    if devices:
        machine = f"this machine ({len(devices)} × {devices[0]})"
    else:
        machine = f"this machine ({cores()} CPU cores)"
    return EngineFacts(
        device="cuda" if devices else "cpu",
        max_ranks=len(devices) or cores(),
        placements=dict.fromkeys(Step, placement),
        device_memory_bytes=_least_memory() if devices else None,
        control_interval_seconds=LOOK_SECONDS,
        machine=machine,
    )


def _asked_products() -> tuple[str, ...]:
    return tuple(_as_label(line) for line in _asked("name"))


def _least_memory() -> int | None:
    """Bytes of the machine's smallest device."""
    mebibytes = [line for line in _asked("memory.total") if line.isdecimal()]
    return min(map(int, mebibytes)) * _MEBIBYTE if mebibytes else None


def _asked(figure: str) -> tuple[str, ...]:
    """What nvidia-smi says of every device; nothing without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={figure}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def _device_nodes() -> tuple[str, ...]:
    """Without nvidia-smi the devices are counted, and called by a name that no rate card has."""
    nodes = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return ("nvidia",) * len(nodes)


def _as_label(product: str) -> str:
    """A product's name as GPU feature discovery writes it: ``NVIDIA H200`` is ``NVIDIA-H200``."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", product.strip())[:63].strip("-_.")
