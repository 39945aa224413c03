"""The address of a simulated pod, and what its container serves there."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Callable, Iterator

from aiohttp import web

from finetune_operator.kube.names import TRAINER_PORT
from harness.kubeletnode import Node

# What a container answers: a status and a body, from the query of the request.
Answer = Callable[[web.Request], web.Response]


def addresses() -> Iterator[str]:
    """Loopback addresses, from a random one on: other runs on this machine have theirs."""
    first = random.randrange(1 << 16, 250 << 16)
    for number in itertools.count(first):
        yield f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def reserve(free: Iterator[str]) -> socket.socket:
    """Take the next address whose trainer port is free; nothing is heard there yet."""
    while True:
        taken = socket.socket()
        try:
            taken.bind((next(free), TRAINER_PORT))
        except OSError:
            taken.close()
        else:
            return taken


class PodServer:
    """Serves on a reserved address what the container has put up so far; else refuses."""

    def __init__(self, reserved: socket.socket, node: Node, changed: Callable[[], None]) -> None:
        self._socket = reserved
        self._node = node
        self._changed = changed
        self._routes: dict[tuple[str, str], Answer] = {}
        self._runner: web.AppRunner | None = None

    @property
    def ip(self) -> str:
        """The pod's address."""
        return str(self._socket.getsockname()[0])

    async def serve(self, method: str, path: str, answer: Answer) -> None:
        """Answer there from now on."""
        self._routes[method, path] = answer
        if self._runner is None:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._answer)
            self._runner = web.AppRunner(app, access_log=None)
            await self._runner.setup()
            await web.SockSite(self._runner, self._socket).start()
        self._changed()

    def answers(self, path: str) -> bool:
        """Whether a probe of that path succeeds."""
        return ("GET", path) in self._routes

    async def close(self) -> None:
        """Give the address back."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._socket.close()

    async def _answer(self, request: web.Request) -> web.Response:
        if not self._node.connected.is_set() and request.transport is not None:
            request.transport.abort()
        answer = self._routes.get((request.method, request.path))
        return web.Response(status=404) if answer is None else answer(request)
