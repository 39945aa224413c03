"""/healthz, /readyz and /metrics of the operator's process."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import CollectorRegistry


@dataclass(frozen=True, kw_only=True)
class Health:
    """How the process is, as its probes are told."""

    leading: bool
    """It holds the Lease."""
    synced: bool
    """It knows the cluster, and works."""

    @property
    def ready(self) -> bool:
        """A process that waits for the Lease is as ready as it can be: an upgrade needs that."""
        return self.synced or not self.leading


@asynccontextmanager
async def serving(
    host: str, port: int, registry: CollectorRegistry, health: Callable[[], Health]
) -> AsyncIterator[None]:
    """Serve until the block ends.

    Raises
    ------
    OSError
        If the address can't be listened on.
    """

    async def healthz(_: web.Request) -> web.Response:
        # That this is answered at all is the news: the event loop turns.
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        now = health()
        return web.json_response(
            {"leading": now.leading, "synced": now.synced}, status=200 if now.ready else 503
        )

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    application = web.Application()
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz)
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
