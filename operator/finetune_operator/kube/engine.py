"""The engine on a cluster, for one job: the core's decisions as requests to an API server.

``runtime`` makes one for every look; all that lasts is in the API server or in ``Cluster``. Every
write is bound to what was read: by uid, by resourceVersion, or by a name that is made only once.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.digests import run_digest
from finetune_api.job import FineTuneJob
from finetune_api.phases import ConditionType
from finetune_api.report import Step
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord
from finetune_operator.core.conditions import is_true
from finetune_operator.core.decision import CreateGang, Event, ForgetGang, ReleaseGang, StopGang
from finetune_operator.core.observed import Observed, Problem
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.engine import EngineError
from finetune_operator.kube import look, pods, records, release, reports
from finetune_operator.kube.claims import claim_problems, made_claim_problems
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.errors import AlreadyExistsError, ApiError
from finetune_operator.kube.gangpods import gang_pods
from finetune_operator.kube.manifests.claim import workspace_claim
from finetune_operator.kube.manifests.gang import gang_job
from finetune_operator.kube.manifests.network import headless_service, network_policy
from finetune_operator.kube.manifests.run import run_config_map
from finetune_operator.kube.names import (
    RUN_DIGEST_ANNOTATION,
    TRAINER_PORT,
    gang_name,
    job_selector,
)
from finetune_operator.kube.resources import (
    CLAIMS,
    CONFIG_MAPS,
    FINETUNE_JOBS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    Json,
)
from finetune_operator.kube.turns import ahead, takes_turns
from finetune_operator.trainerport import pull_progress

_CREATE_AGAIN_SECONDS = 10.0
"""A Job that was asked for is asked for again only after so long: its pods take a moment."""


class UnreadableJobError(Exception):
    """A job of the API server is none that this version can read."""


class KubeEngine:
    """Carries out the core's decisions for one job.

    Parameters
    ----------
    cluster
        What all engines share.
    raw
        The job as the cache has it.
    clock
        Gives the moment, aware and in UTC.

    Raises
    ------
    UnreadableJobError
        If the job's spec is of a version that this one can't read.
    """

    def __init__(self, cluster: Cluster, raw: Json, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self.raw = raw
        self._clock = clock
        try:
            self.job = FineTuneJob.model_validate(raw, extra="ignore")
        except ValidationError as error:
            raise UnreadableJobError(_first_error(error)) from error
        self._pods: tuple[Json, ...] = ()

    async def look(self) -> Observed:
        """Gather the job's pods, records, reports and progress."""
        cluster, job, now = self._cluster, self.job, self._clock()
        stored = records.of_job(cluster, job.metadata.uid)
        self._pods = await look.raw_pods(cluster, job, stored)
        views = await look.views_of(cluster, self._pods, now, look.node_lost(job))
        views += look.vanished_of(cluster, job, stored, views, now)
        await self._listen(views)
        return Observed(
            job=job,
            engine=look.facts_of(cluster, job),
            pods=views,
            records=stored,
            rate_cards=tuple(cluster.rate_cards()),
            progress=cluster.memory.progress.get(job.metadata.uid),
            reports=await reports.stored(cluster, job, views),
            problems=await self._problems(),
            blocked=await look.blocked(cluster, job, views, now),
            ahead=self._ahead(now),
        )

    async def write_record(self, record: UsageRecord) -> None:
        """Create or replace a record."""
        await records.write(self._cluster, record)

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> None:
        """Replace the status, if the job is still the one that was looked at."""
        metadata = self.raw["metadata"]
        body = {
            "apiVersion": self.raw["apiVersion"],
            "kind": self.raw["kind"],
            "metadata": {
                key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")
            },
            "spec": self.raw["spec"],
            "status": status.wire(),
        }
        self.raw = await self._client.replace(FINETUNE_JOBS, body, subresource="status")
        self._cluster.caches.jobs.put(self.raw)
        self.job = job.model_copy(update={"status": status})

    async def create_gang(self, action: CreateGang) -> None:
        """Make what the job has once, then the run and the Job of this attempt."""
        uid, cluster = self.job.metadata.uid, self._cluster
        key = (uid, action.attempt)
        now, before = self._clock(), cluster.memory.created.get(key)
        if before is not None and (now - before).total_seconds() < _CREATE_AGAIN_SECONDS:
            return
        try:
            await self._make(action)
        except ApiError as error:
            if error.is_refusal:
                cluster.memory.refused[uid] = str(error)
            raise
        cluster.memory.refused.pop(uid, None)
        cluster.memory.created[key] = now

    async def _make(self, action: CreateGang) -> None:
        job, namespace = self.job, self.job.metadata.namespace
        trainer = self._cluster.settings.trainer
        claim = workspace_claim(job)
        if claim is not None and not self._cluster.memory.has_created(job.metadata.uid):
            await self._create_once(CLAIMS, claim)
        if action.step is Step.TRAIN:
            await self._client.apply(SERVICES, headless_service(job))
        await self._client.apply(NETWORK_POLICIES, network_policy(job, trainer))
        await self._client.apply(CONFIG_MAPS, run_config_map(job, action))
        try:
            await self._client.create(JOBS, gang_job(job, action, trainer), namespace=namespace)
        except AlreadyExistsError:
            await self._is_this_gang(action)

    async def _create_once(self, resource: Any, body: Json) -> None:
        try:
            await self._client.create(resource, body, namespace=self.job.metadata.namespace)
        except AlreadyExistsError:
            return

    async def _is_this_gang(self, action: CreateGang) -> None:
        """Of a Job that is there already: it is ours and of this run, or it is made anew."""
        name = gang_name(self.job, action.step, action.attempt)
        there = await self._client.get(JOBS, name, self.job.metadata.namespace)
        metadata = there["metadata"]
        if metadata.get("labels", {}).get(JOB_UID_LABEL) != self.job.metadata.uid:
            raise EngineError(f"Job {name} is there and is not of this FineTuneJob: remove it")
        if metadata.get("annotations", {}).get(RUN_DIGEST_ANNOTATION) == run_digest(action.run):
            return
        own = [pod for pod in self._pods if look.attempt_of(pod) == action.attempt]
        if any(not look.is_gated(pod) for pod in own):
            raise EngineError(f"Job {name} runs already, with another run")
        await self._client.delete(
            JOBS, name, metadata["namespace"], uid=metadata["uid"], propagation="Background"
        )
        for pod in own:
            await pods.let_go(self._cluster, pod)
        raise EngineError(f"Job {name} was of an earlier manifest: it is made anew")

    async def release_gang(self, action: ReleaseGang) -> None:
        """Check against the API server itself that the gang is whole and alone; let it go."""
        job, cluster = self.job, self._cluster
        assert job.status is not None
        assert job.status.resolved is not None
        listing = await self._client.list(
            PODS, job.metadata.namespace, label_selector=job_selector(job.metadata.uid)
        )
        now, pods = self._clock(), gang_pods(listing.items)
        views = await look.views_of(cluster, pods, now, look.node_lost(job))
        workers = job.status.resolved.workers if action.step is Step.TRAIN else 1
        release.check(action, views, workers)
        if action.deadline_seconds is not None:
            await self._limit(action, now)
        if not takes_turns(job, action.step):
            await self._let_go(action, pods)
            return
        async with cluster.placing:
            if other := ahead(cluster, job, action.step, self._clock()):
                raise release.NotReleasedError(f"{other} is placed first")
            await self._let_go(action, pods)

    async def _let_go(self, action: ReleaseGang, listed: Sequence[Json]) -> None:
        namespace, now = self.job.metadata.namespace, self._clock()
        for pod in listed:
            operations = release.operations(pod, action.attempt, now)
            if look.attempt_of(pod) == action.attempt and operations:
                name = pod["metadata"]["name"]
                written = await self._client.patch_json(PODS, name, namespace, operations)
                self._cluster.caches.pods.put(written)

    async def _limit(self, action: ReleaseGang, now: datetime) -> None:
        """Set the Job's deadline: the stop that needs no operator. Its clock began with the Job."""
        name = gang_name(self.job, action.step, action.attempt)
        namespace = self.job.metadata.namespace
        there = await self._client.get(JOBS, name, namespace)
        begun = release.started_at(there, now)
        assert action.deadline_seconds is not None
        seconds = int((now - begun).total_seconds()) + action.deadline_seconds
        operations = [
            {"op": "test", "path": "/metadata/uid", "value": there["metadata"]["uid"]},
            {"op": "add", "path": "/spec/activeDeadlineSeconds", "value": max(1, seconds)},
        ]
        await self._client.patch_json(JOBS, name, namespace, operations)

    async def stop_gang(self, action: StopGang) -> None:
        """Ask its pods to end; those without a node first, or they take what the others leave."""
        own = [pod for pod in self._pods if look.attempt_of(pod) == action.attempt]
        for pod in sorted(own, key=lambda pod: "nodeName" in pod["spec"]):
            await pods.stop(self._cluster, pod, action.grace_seconds)

    async def forget_gang(self, action: ForgetGang) -> None:
        """Let its pods go: their use is recorded."""
        for pod in self._pods:
            if look.attempt_of(pod) == action.attempt:
                await pods.let_go(self._cluster, pod)

    async def tell(self, events: Sequence[Event]) -> None:
        """Publish events about the job."""
        await self._cluster.events.tell(self.raw, events)

    def _ahead(self, now: datetime) -> str | None:
        """Whose gang is placed before the one that waits for its release."""
        row = look.running_attempt(self.job)
        if row is None or row.state != "Starting":
            return None
        return ahead(self._cluster, self.job, row.step, now)

    async def _problems(self) -> tuple[Problem, ...]:
        """What is wrong with the job's claims: before it starts, and when it grows."""
        if not self._admitted():
            return await claim_problems(self._client, self.job)
        resolved = self.job.status.resolved if self.job.status else None
        if resolved is None or self.job.spec.compute.workers <= resolved.workers:
            return ()
        named = await claim_problems(self._client, self.job)
        return (*named, *await made_claim_problems(self._client, self.job))

    def _admitted(self) -> bool:
        status = self.job.status
        return status is not None and is_true(status.conditions, ConditionType.ADMITTED)

    async def _listen(self, views: Sequence[PodView]) -> None:
        """Hear what live pods have to say: progress of a training, reports of the other steps."""
        addresses = {
            pod["metadata"]["uid"]: pod.get("status", {}).get("podIP") for pod in self._pods
        }
        for view in views:
            host = addresses.get(view.uid)
            if not view.live or view.started_at is None or view.worker or not host:
                continue
            address = f"[{host}]:{TRAINER_PORT}" if ":" in host else f"{host}:{TRAINER_PORT}"
            if view.step is not Step.TRAIN:
                await reports.receive(self._cluster, self.job, view, address)
                continue
            told = await pull_progress(address, view.uid, view.attempt)
            if told is not None:
                self._cluster.memory.progress[self.job.metadata.uid] = told


def _first_error(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in error.errors()[:10]
    )
