"""One look at one job of the cluster: finalizer, decision, end, and when to look again.

Called by the workers. What goes wrong is the job's alone: it is given up, told in the log, and
tried again later.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from finetune_api.phases import TERMINAL
from finetune_operator.engine import step
from finetune_operator.kube import expiry, finalizers, unreadable
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.engine import KubeEngine, UnreadableJobError
from finetune_operator.kube.resources import Json

_log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class JobKey:
    """Which job: what the work queue holds."""

    namespace: str
    name: str

    @classmethod
    def of(cls, job: Json) -> "JobKey":
        """The key of a job as the API server sends it."""
        return cls(job["metadata"]["namespace"], job["metadata"]["name"])

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class Controller:
    """Looks at jobs."""

    cluster: Cluster
    clock: Callable[[], datetime]

    async def look(self, key: JobKey) -> float | None:
        """Look at a job once; returns in how many seconds to look again, None for not before
        something changes.

        Raises
        ------
        EngineError
            If the API server refused or didn't answer; the look may be tried again.
        """  # noqa: D205 (the first sentence needs both lines)
        raw = self.cluster.caches.jobs.get(key.namespace, key.name)
        if raw is None:
            return None
        leaving = "deletionTimestamp" in raw["metadata"]
        if leaving and not finalizers.holds(raw):
            return None
        try:
            engine = KubeEngine(self.cluster, raw, self.clock)
        except UnreadableJobError as error:
            if leaving:
                # What it used is recorded by the sweep, as of any job that is gone.
                await finalizers.remove(self.cluster, raw)
                return None
            await unreadable.tell(self.cluster, raw, str(error), self.clock())
            return None
        over = engine.job.status is not None and engine.job.status.phase in TERMINAL
        if not (leaving or over or finalizers.holds(raw)):
            raw = await finalizers.add(self.cluster, raw)
            engine = KubeEngine(self.cluster, raw, self.clock)
        decision = await step(engine, self.clock())
        if decision.write_status:
            status = decision.status
            _log.info("%s: %s: %s", status.phase, status.reason, status.message)
        if decision.expired:
            await expiry.delete(self.cluster.client, self.cluster.caches.jobs, engine.raw)
        if decision.finished and (leaving or decision.status.phase in TERMINAL):
            await finalizers.remove(self.cluster, engine.raw)
            self.cluster.memory.forget(engine.job.metadata.uid)
        return decision.look_again_seconds
