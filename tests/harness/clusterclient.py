"""How the simulated parts of a cluster talk to its API server: as a client of their own.

Written for the tests alone, so that nothing of the operator's own client is trusted to test it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from harness.controlplane import ControlPlane, Method, Reply

# An object as the API server sends it.
Object = dict[str, Any]
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
_WATCH_SECONDS = 600
_AGAIN_SECONDS = 0.2
_EXPIRED = 410


@dataclass(frozen=True)
class Seen:
    """What a watch tells: all objects anew, or what became of one."""

    listed: tuple[Object, ...] | None = None
    changed: Object | None = None
    deleted: bool = False


class ClusterClient:
    """One user's session, inside a loop: `async with ClusterClient(…)`."""

    def __init__(self, plane: ControlPlane, user: str) -> None:
        trust = ssl.create_default_context(cafile=plane.certificates.authority)
        self._session = aiohttp.ClientSession(
            plane.url,
            connector=aiohttp.TCPConnector(ssl=trust, limit=0),
            headers={"Authorization": f"Bearer {plane.tokens[user]}", "User-Agent": user},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(
        self,
        method: Method,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> Reply:
        """Send one request; a refusal is a reply, not an error."""
        async with self._session.request(
            method,
            path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
        ) as response:
            return Reply(status=response.status, body=await response.json(content_type=None))

    async def watch(self, path: str, query: str = "") -> AsyncIterator[Seen]:
        """List, then follow every change, for ever; a broken or expired watch lists anew."""
        while True:
            try:
                listed = await self.request("GET", f"{path}?{query}")
                if listed.status == 200:
                    yield Seen(listed=tuple(listed.body["items"]))
                    version = str(listed.body["metadata"]["resourceVersion"])
                    async for seen in self._follow(path, query, version):
                        yield seen
            except (aiohttp.ClientError, OSError):
                pass  # the API server is away: it is asked again
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _follow(self, path: str, query: str, version: str) -> AsyncIterator[Seen]:
        """Tell changes from a version on, until the watch can't go on without a new list."""
        while True:
            asked = f"watch=true&allowWatchBookmarks=true&timeoutSeconds={_WATCH_SECONDS}"
            url = f"{path}?{query}&{asked}&resourceVersion={version}"
            async with self._session.get(url) as response:
                if response.status != 200:
                    return
                async for event in _events(response):
                    if event["type"] == "ERROR":
                        assert event["object"].get("code") == _EXPIRED, event
                        return
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield Seen(changed=event["object"], deleted=event["type"] == "DELETED")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[Object]:
    """One JSON object per line, of any length."""
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield json.loads(line)
