"""The operator's process from its settings to its end. Called by ``finetune-operator run``.

One process of an installation leads, by a Lease. It lists what there is, then watches, and its
workers look at jobs as the queue brings them. Losing the Lease ends the process: nothing of it may
go on deciding.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from finetune_api.phases import TERMINAL
from finetune_operator.engine import EngineError
from finetune_operator.kube import orphans
from finetune_operator.kube.cache import relist
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.cluster import Caches, Cluster
from finetune_operator.kube.errors import TooManyRequestsError
from finetune_operator.kube.events import EventWriter
from finetune_operator.kube.lease import Lease
from finetune_operator.kube.names import MANAGED_SELECTOR
from finetune_operator.runtime import watches
from finetune_operator.runtime.controller import Controller, JobKey
from finetune_operator.runtime.logs import configure, current_job
from finetune_operator.runtime.metrics import OperatorMetrics
from finetune_operator.runtime.queue import WorkQueue
from finetune_operator.runtime.server import Health, serving
from finetune_operator.runtime.settings import OperatorSettings

_log = logging.getLogger(__name__)

LEASE_NAME = "finetune-operator"
_RELIST_EVERY = 10
"""So many resyncs later the caches are listed anew: a watch never tells what it missed."""
_LAST_LOOKS_SECONDS = 20.0
"""How long the looks in progress may take to end when the process is asked to."""


def run(settings: OperatorSettings) -> int:
    """Run the operator until it is told to end or can't go on; returns the exit code."""
    configure(settings.log_level)
    return asyncio.run(_Operator(settings).run())


def _now() -> datetime:
    return datetime.now(UTC)


class _Operator:
    """One process. It has a life: standby, leading, ending."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._settings = settings
        self._caches = Caches()
        self._metrics = OperatorMetrics(self._caches.jobs, self._caches.records)
        self._queue: WorkQueue[JobKey] = WorkQueue()
        self._leading = False
        self._synced = False
        self._stop = asyncio.Event()

    async def run(self) -> int:
        settings = self._settings
        self._take_signals()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(
                serving(settings.host, settings.port, self._metrics.registry, self._health)
            )
            client = await stack.enter_async_context(
                KubeClient(on_request=self._metrics.count_request)
            )
            lease = Lease(
                client,
                namespace=settings.cluster.namespace,
                name=LEASE_NAME,
                identity=settings.identity,
                duration=settings.lease,
            )
            _log.info("waiting for the Lease as %s", settings.identity)
            if not await self._unless_stopped(lease.acquire()):
                return 0
            try:
                return await self._lead(client, lease)
            finally:
                await lease.release()

    async def _lead(self, client: KubeClient, lease: Lease) -> int:
        self._leading = True
        self._metrics.leader.set(1)
        _log.info("leading")
        cluster = Cluster(
            client=client,
            caches=self._caches,
            events=EventWriter(client),
            settings=self._settings.cluster,
        )
        controller = Controller(cluster, _now)
        try:
            await self._list(client)
        except EngineError:
            _log.exception("the cluster can't be listed")
            return 1
        handlers = watches.registry(cluster, self._metrics, self._queue.add, self._wake_all)
        started, end = asyncio.Event(), asyncio.Event()
        running = [
            asyncio.create_task(coroutine, name=name)
            for name, coroutine in (
                ("lease", lease.keep()),
                (
                    "watches",
                    watches.watch(
                        handlers,
                        self._settings.cluster.watch_namespaces,
                        self._settings.identity,
                        started,
                        end,
                    ),
                ),
                ("resync", self._resync(cluster)),
                *((f"worker-{n}", self._work(controller)) for n in range(self._settings.workers)),
            )
        ]
        self._wake_all()
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        taking = asyncio.create_task(self._take_signals_after(started), name="signals")
        done, _ = await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
        self._synced = False
        end.set()
        self._queue.close()
        code = self._reason(done - {stopping})
        if code == 0:
            await self._finish_looks(running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        taking.cancel()
        stopping.cancel()
        return code

    def _reason(self, done: Iterable[asyncio.Task[Any]]) -> int:
        """Why the process ends, told in the log; 0 if it was asked to."""
        for task in done:
            error = task.exception()
            _log.error("%s ended, so the process does", task.get_name(), exc_info=error)
        return 1 if done else 0

    async def _finish_looks(self, running: list[asyncio.Task[None]]) -> None:
        """Let looks that are under way end, while the Lease is still held for them."""
        workers = [task for task in running if task.get_name().startswith("worker")]
        await asyncio.wait(workers, timeout=_LAST_LOOKS_SECONDS)

    async def _list(self, client: KubeClient) -> None:
        """Take the state of the cluster anew, whole."""
        caches, watched = self._caches, self._settings.cluster.watch_namespaces
        await relist(client, caches.rate_cards)
        await relist(client, caches.nodes)
        await relist(client, caches.records, namespaces=(self._settings.cluster.namespace,))
        await relist(client, caches.jobs, namespaces=watched)
        await relist(client, caches.pods, namespaces=watched, label_selector=MANAGED_SELECTOR)
        self._synced = True

    async def _resync(self, cluster: Cluster) -> None:
        """Look at everything once in a while, and at what belongs to no job."""
        count = 0
        while True:
            try:
                if count and count % _RELIST_EVERY == 0:
                    await self._list(cluster.client)
                await orphans.sweep(cluster, _now())
            except EngineError as error:
                _log.warning("resync: %s", error)
            self._wake_all()
            self._metrics.overdue.set(self._queue.overdue)
            count += 1
            await asyncio.sleep(self._settings.resync.total_seconds())

    async def _work(self, controller: Controller) -> None:
        """Look at one job after the other."""
        while (key := await self._queue.get()) is not None:
            current_job.set(str(key))
            try:
                with self._metrics.reconciles.time():
                    again = await controller.look(key)
            except EngineError as error:
                self._metrics.errors.labels(type(error).__name__).inc()
                least = error.retry_after if isinstance(error, TooManyRequestsError) else 0.0
                delay = self._queue.failed(key, at_least=least or 0.0)
                _log.warning("given up for %.1f s: %s", delay, error)
            except Exception:  # noqa: BLE001 (the edge of a worker)
                # A fault of ours with one job must not end the others'.
                self._metrics.errors.labels("Internal").inc()
                delay = self._queue.failed(key)
                _log.exception("given up for %.1f s", delay)
            else:
                self._queue.done(key, again)
            finally:
                current_job.set("")

    def _wake_all(self) -> None:
        for job in self._caches.jobs.items():
            over = job.get("status", {}).get("phase") in TERMINAL
            if not over or job["metadata"].get("finalizers"):
                self._queue.add(JobKey.of(job))

    def _health(self) -> Health:
        return Health(leading=self._leading, synced=self._synced)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)

    async def _take_signals_after(self, started: asyncio.Event) -> None:
        """Take them back from kopf, which takes them when it starts."""
        await started.wait()
        self._take_signals()

    async def _unless_stopped(self, waited_for: Awaitable[None]) -> bool:
        """Wait for something; false if the process was told to end before."""
        task, stopped = asyncio.ensure_future(waited_for), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        task.result()
        return True
