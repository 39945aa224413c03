"""Stands between the operator and its API server, counts the operator's writes, and spoils some.

Everything else flows through as it comes, watches too. A write is a POST, PUT, PATCH or DELETE;
leases and events are not counted, since they come by the clock and nothing rests on them.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from harness.controlplane import HOST, ControlPlane, write_kubeconfig
from harness.loopthread import LoopThread, loop_thread
from tools.cluster.certificates import make_certificates

WRITES = ("POST", "PUT", "PATCH", "DELETE")
NOT_COUNTED = ("leases", "events")
_DELAY_SECONDS = 2.0
_HOP_BY_HOP = frozenset(
    {"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


class Strike(StrEnum):
    """What becomes of a write."""

    KILL_BEFORE = "the client is killed before the write"
    KILL_AFTER = "the client is killed after the write, before it hears of it"
    DROP_REQUEST = "the connection breaks before the write"
    DROP_REPLY = "the connection breaks after the write"
    CONFLICT = "409, and nothing is written"
    TOO_MANY = "429 with Retry-After, and nothing is written"
    FAILED = "500, and nothing is written"
    UNAVAILABLE = "503, and nothing is written"
    DELAY = "written two seconds late"
    DUPLICATE = "written twice; the second answer is passed on"
    HOLD = "written once what the test does meanwhile is done"
    HOLD_REPLY = "written at once, and answered once what the test does meanwhile is done"


_REFUSALS = {
    Strike.CONFLICT: (409, "Conflict"),
    Strike.TOO_MANY: (429, "TooManyRequests"),
    Strike.FAILED: (500, "InternalError"),
    Strike.UNAVAILABLE: (503, "ServiceUnavailable"),
}
_KILLS = (Strike.KILL_BEFORE, Strike.KILL_AFTER, Strike.HOLD, Strike.HOLD_REPLY)
# So many writes may wait at the same time for the death of the client that made them.
_KILLERS = 256


@dataclass
class Write:
    """One write of the client, in the order in which they came."""

    number: int
    """From 1 on."""
    method: str
    path: str
    """With its query."""
    name: str = ""
    """Of the object that is written."""
    body: Any = field(default=None, repr=False)
    """What was sent."""
    strike: Strike | None = None
    code: int | None = None
    """The API server's answer; None while there is none, and where none was asked for."""


Choice = Callable[[Write], Strike | None]
"""What becomes of a write; asked in the proxy's thread, once for each."""


@dataclass(frozen=True)
class _Reply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class FaultProxy:
    """One client's proxy; made by `running_fault_proxy`."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane = plane
        self._folder = folder
        self._certificates = make_certificates(folder, addresses=(HOST,))
        self._port = 0
        self._session: aiohttp.ClientSession
        self._writes: list[Write] = []
        self._choose: Choice = lambda _: None
        self._killers = ThreadPoolExecutor(_KILLERS, thread_name_prefix="killer")
        self._kill: Callable[[], None] | None = None
        self._struck = threading.Event()

    @property
    def writes(self) -> tuple[Write, ...]:
        """What the client has written so far, or tried to."""
        return tuple(self._writes)

    def kubeconfig(self, original: Path) -> Path:
        """Return the kubeconfig of the same user, through this proxy."""
        user = json.loads(original.read_text())["users"][0]
        return write_kubeconfig(
            self._folder / f"proxied-{original.name}",
            server=f"https://{HOST}:{self._port}",
            authority=self._certificates.authority,
            user=user["name"],
            token=user["user"]["token"],
        )

    def plan(self, strikes: Mapping[int, Strike], kill: Callable[[], None] | None = None) -> None:
        """Say what becomes of which writes, by their numbers from the first one of all.

        `kill` ends the client and returns once it is gone; the strikes that kill need it.
        """
        assert kill is not None or not any(strike in _KILLS for strike in strikes.values())
        left = dict(strikes)
        self.plan_each(lambda write: left.pop(write.number, None), kill)

    def plan_each(self, choose: Choice, kill: Callable[[], None] | None = None) -> None:
        """Say what becomes of each write when it comes, by what is written.

        `kill` is asked once for each write that needs it, in a thread of its own.
        """
        self._choose = choose
        self._kill = kill
        self._struck.clear()

    def wait_until_struck(self, seconds: float) -> bool:
        """Return once a planned strike was carried out; False if none was in that time."""
        return self._struck.wait(seconds)

    async def run(self, ready: threading.Event) -> None:
        """Serve until cancelled."""
        trust = ssl.create_default_context(cafile=self._plane.certificates.authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            self._certificates.server_certificate, self._certificates.server_key
        )
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A watch whose reader is gone must not stay open on the other side.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        ) as self._session:
            await runner.setup()
            site = web.TCPSite(runner, HOST, 0, ssl_context=context)
            try:
                await site.start()
                self._port = runner.addresses[0][1]
                ready.set()
                await asyncio.Event().wait()
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        is_write = request.method in WRITES
        if not is_write or any(part in NOT_COUNTED for part in request.path.split("/")):
            return await self._stream(request)
        body = await request.read()
        number = len(self._writes) + 1
        sent = _object_in(body)
        write = Write(
            number=number,
            method=request.method,
            path=request.raw_path,
            name=_name_of(request, sent),
            body=sent,
        )
        self._writes.append(write)
        write.strike = self._choose(write)
        # What was begun is carried through, though its client may die meanwhile.
        return await asyncio.shield(asyncio.ensure_future(self._write(request, body, write)))

    async def _write(self, request: web.Request, body: bytes, write: Write) -> web.Response:
        try:
            return await self._struck_write(request, body, write)
        finally:
            if write.strike is not None:
                self._struck.set()

    async def _struck_write(self, request: web.Request, body: bytes, write: Write) -> web.Response:
        strike = write.strike
        if strike in _REFUSALS:
            return _refusal(*_REFUSALS[strike])
        if strike in (Strike.KILL_BEFORE, Strike.HOLD):
            await self._kill_client()
        if strike in (Strike.KILL_BEFORE, Strike.DROP_REQUEST):
            return _broken_off(request)
        if strike is Strike.DELAY:
            await asyncio.sleep(_DELAY_SECONDS)
        reply = await self._forward(request, body)
        if strike is Strike.DUPLICATE:
            reply = await self._forward(request, body)
        write.code = reply.status
        if strike in (Strike.KILL_AFTER, Strike.HOLD_REPLY):
            await self._kill_client()
        if strike in (Strike.KILL_AFTER, Strike.DROP_REPLY):
            return _broken_off(request)
        return web.Response(status=reply.status, headers=reply.headers, body=reply.body)

    async def _kill_client(self) -> None:
        assert self._kill is not None
        await asyncio.get_running_loop().run_in_executor(self._killers, self._kill)

    async def _forward(self, request: web.Request, body: bytes) -> _Reply:
        async with self._ask(request, body) as answer:
            headers = _passed_on(answer.headers)
            return _Reply(status=answer.status, headers=headers, body=await answer.read())

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        async with self._ask(request, await request.read()) as answer:
            response = web.StreamResponse(status=answer.status, headers=_passed_on(answer.headers))
            await response.prepare(request)
            # Either side may break off in the middle; the other one then learns it so too.
            try:
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            except (aiohttp.ClientError, OSError):
                if request.transport is not None:
                    request.transport.abort()
            return response

    def _ask(self, request: web.Request, body: bytes) -> aiohttp.client._RequestContextManager:
        return self._session.request(
            request.method,
            request.url.with_host(HOST).with_port(self._plane.port),
            headers=_passed_on(request.headers),
            data=body or None,
            allow_redirects=False,
        )


def _object_in(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _name_of(request: web.Request, sent: Any) -> str:
    """The name in the path; where something is made, that in what was sent."""
    if request.method == "POST":
        return str(sent["metadata"].get("name", "")) if sent else ""
    return request.path.removesuffix("/status").rpartition("/")[2]


def _passed_on(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in _HOP_BY_HOP]


def _refusal(code: int, reason: str) -> web.Response:
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "reason": reason,
        "message": "as the test planned",
        "code": code,
    }
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response(status, status=code, headers=headers)


def _broken_off(request: web.Request) -> web.Response:
    """Break the connection; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


@contextmanager
def running_fault_proxy(plane: ControlPlane, folder: Path) -> Iterator[FaultProxy]:
    """Run a proxy in front of an API server until the block ends; its keys lie in `folder`."""
    proxy = FaultProxy(plane, folder)
    ready = threading.Event()
    with loop_thread("fault-proxy") as thread:
        serve(thread, proxy, ready)
        yield proxy


def serve(thread: LoopThread, proxy: FaultProxy, ready: threading.Event) -> None:
    """Start the proxy in its thread, and wait until it listens."""
    thread.start(proxy.run(ready))
    assert ready.wait(60), "the proxy doesn't listen"
