"""What the container runtime of a node says of its containers: the other side of the books.

containerd tells its own clients of every start and exit. Nothing of the project is between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from finetune_api.times import parse_time
from harness.processes import running
from tools.cluster.containers import KUBERNETES, ctr
from tools.cluster.place import Node

# 2026-11-26 00:37:43.341398263 +0000 UTC k8s.io /tasks/start {…}
_LINE = re.compile(r"(\S+) (\d\d:\d\d:\d\d)\S* \+0000 UTC \S+ (\S+) (\{.*\})")


@dataclass(frozen=True)
class Life:
    """When a container ran, in whole seconds as Kubernetes writes them."""

    started: datetime
    exited: datetime | None = None


@dataclass(frozen=True)
class RuntimeJournal:
    """All that a node's containerd has told since the journal was begun."""

    node: Node
    path: Path

    def lives(self) -> dict[str, Life]:
        """Containers by id, those of sandboxes among them."""
        lives: dict[str, Life] = {}
        for line in self.path.read_text().splitlines():
            told = _LINE.fullmatch(line)
            if told is None:
                continue  # the last one, while it is being written
            day, second, topic, text = told.groups()
            event = json.loads(text)
            container = event.get("container_id")
            if topic == "/tasks/start":
                at = datetime.fromisoformat(f"{day}T{second}").replace(tzinfo=UTC)
                lives[container] = Life(at)
            elif topic == "/tasks/exit" and event["id"] == container and container in lives:
                exited = parse_time(event["exited_at"][: len("2026-11-26T00:37:46")] + "Z")
                lives[container] = Life(lives[container].started, exited)
        return lives

    def process_of(self, container: str) -> int:
        """Process id, on this machine, of a container's first process."""
        for line in ctr(self.node.socket, "tasks", "list").splitlines():
            name, pid, *_ = line.split()
            if name == container:
                return int(pid)
        raise AssertionError(f"{container} does not run on {self.node.name}")

    def pause(self, container: str) -> None:
        """Freeze a container's processes, as on a machine that hangs."""
        ctr(self.node.socket, "tasks", "pause", container)

    def resume(self, container: str) -> None:
        """Let a container's processes go on."""
        ctr(self.node.socket, "tasks", "resume", container)


@contextmanager
def running_journal(node: Node, folder: Path) -> Iterator[RuntimeJournal]:
    """Note what a node's containerd tells until the block ends."""
    journal = RuntimeJournal(node, folder / f"containerd-of-{node.name}.events")
    command: list[str | Path] = [
        "ctr",
        "--address",
        node.socket,
        "--namespace",
        KUBERNETES,
        "events",
    ]
    with running(command, log=journal.path, ready=lambda: _hears(journal)):
        yield journal


def _hears(journal: RuntimeJournal) -> bool:
    """Return whether an event arrives; one is caused, which changes nothing."""
    ctr(journal.node.socket, "namespaces", "label", KUBERNETES, "journal=heard")
    return journal.path.stat().st_size > 0
