"""Many jobs side by side under one operator, each to be met at a write of its own.

To kill an operator at every write of a story takes as many stories and, one after the other, as
many processes. Here the proxy holds each job at the write that is meant for it; once all are held,
one death of the process meets them all.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from finetune_api.phases import Phase
from finetune_api.report import Step
from finetune_api.status import JobStatus
from finetune_operator.cost.records import JOB_UID_LABEL
from harness.faultproxy import FaultProxy, Strike, Write
from harness.installation import Installation, held, metered
from harness.kubelet import SimulatedKubelet
from harness.objects import Object
from harness.stories import kept_pods

KINDS = (
    "batch/v1 jobs",
    "v1 pods",
    "v1 configmaps",
    "v1 services",
    "networking.k8s.io/v1 networkpolicies",
    "v1 persistentvolumeclaims",
)
# A guard against a hang alone: a crowd takes half a minute.
GIVE_UP_SECONDS = 300

Point = tuple[Callable[[Write, int], bool], Strike]
"""Which write of a job, by itself and by its number among the job's own, and what becomes of it."""


class Crowd:
    """The jobs of an installation, and what its operator writes for each of them."""

    def __init__(self, installation: Installation, proxy: FaultProxy) -> None:
        self._installation = installation
        self._proxy = proxy
        self._uids: dict[str, str] = {}
        self._points: dict[str, Point] = {}
        self._gone = threading.Event()
        self._arrived: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        """How many writes there were so far for each job."""
        self.struck: set[str] = set()
        """Jobs that were met."""
        self.meet({})

    def apply(self, job: Object) -> None:
        """Make a job."""
        collection = self._installation.path("").rstrip("/")
        made = self._installation.cluster.request("POST", collection, job)
        assert made.status == 201, made.message
        self._uids[job["metadata"]["name"]] = made.body["metadata"]["uid"]

    def uid(self, name: str) -> str:
        """The uid of a job that was made here."""
        return self._uids[name]

    def families(self) -> tuple[str, ...]:
        """How the names of the jobs' children begin."""
        return tuple(f"{name}-{uid[:6]}-" for name, uid in self._uids.items())

    def owner(self, write: Write) -> str | None:
        """The job that a write is for."""
        for name, uid in list(self._uids.items()):
            if write.name == name or write.name.startswith((f"{name}-", f"{uid}-")):
                return name
        return None

    def meet(self, points: Mapping[str, Point]) -> None:
        """Say at which write each job is met; jobs without a point go on as they come."""
        self._points = dict(points)
        self._gone.clear()
        self._arrived.clear()
        self._proxy.plan_each(self._choose, self._wait_for_the_end)

    def wait_until_met(self) -> None:
        """Return once every job that has a point is held there, or is over without it."""
        self._until(
            lambda: (
                sum(self._arrived.values()) + len(self._over() & (set(self._points) - self.struck))
                >= len(self._points)
            ),
            "jobs to be met",
        )

    def let_go(self) -> None:
        """Carry on with what is held: the client is dead, or shall have its way."""
        self._gone.set()

    def wait_over(self) -> None:
        """Return once every job is over and nothing holds it."""
        self._until(lambda: self._over() >= set(self._uids), "jobs to be over")

    def _choose(self, write: Write) -> Strike | None:
        name = self.owner(write)
        if name is None:
            return None
        self.written[name] += 1
        is_meant, strike = self._points.get(name, (None, None))
        if is_meant is None or name in self.struck or not is_meant(write, self.written[name]):
            return None
        self.struck.add(name)
        return strike

    def _wait_for_the_end(self) -> None:
        self._arrived["all"] += 1
        self._gone.wait()

    def _over(self) -> set[str]:
        # JSON of the API server.
        jobs: Any = self._installation.cluster.request(
            "GET", self._installation.path("").rstrip("/")
        ).body["items"]
        return {
            job["metadata"]["name"]
            for job in jobs
            if "completionTime" in job.get("status", {}) and not job["metadata"].get("finalizers")
        }

    def _until(self, holds: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while not holds():
            assert time.monotonic() < give_up, f"waited in vain for {what}"
            time.sleep(0.5)


def outcome(job: Object) -> Object:
    """What a job has come to, without the moments, the nodes, and what is named after it."""
    status, uid = JobStatus.model_validate(job["status"]), job["metadata"]["uid"]
    return {
        "phase": status.phase,
        "reason": status.reason,
        "attempt": status.attempt,
        "attempts": [
            {
                "number": row.number,
                "step": row.step,
                "state": row.state,
                "reason": row.reason,
                "charged": row.charged,
                "rank": row.rank,
                "resumed": row.marks.resumed_from_step if row.marks else None,
            }
            for row in status.attempts
        ],
        "charged": status.charged_failures,
        "conditions": {(one.type, one.status, one.reason) for one in status.conditions},
        "evaluation": status.evaluation,
        "artifacts": [
            (one.name, one.uri.partition(uid)[2], one.digest) for one in status.artifacts
        ],
    }


def children(installation: Installation) -> dict[str, Counter[str]]:
    """How many objects of each kind there are, by the uid of their job."""
    found: dict[str, Counter[str]] = {}
    for kind in KINDS:
        for child in installation.children(kind):
            uid = child["metadata"].get("labels", {}).get(JOB_UID_LABEL)
            if uid is not None:
                found.setdefault(uid, Counter())[kind] += 1
    for record in installation.records():
        found.setdefault(record.spec.job.uid, Counter())["usagerecords"] += 1
    return found


def assert_alike(installation: Installation, kubelet: SimulatedKubelet, like: str) -> None:
    """Every job has come to the same as one that nothing has happened to, at the same price."""
    wanted, counted = outcome(installation.raw(like)), children(installation)
    assert wanted["phase"] is Phase.COMPLETE
    jobs = installation.cluster.request("GET", installation.path("").rstrip("/")).body["items"]
    others = {job["metadata"]["name"]: _unlike(outcome(job), wanted) for job in jobs}
    unlike = {name: found for name, found in others.items() if found}
    assert not unlike, unlike
    more = {job["metadata"]["name"]: counted[job["metadata"]["uid"]] for job in jobs}
    unlike = {name: had for name, had in more.items() if had != more[like]}
    assert not unlike, (unlike, more[like])
    assert_books_right(installation, kubelet)
    assert_one_gang_at_a_time(installation, kubelet)


def _unlike(one: Object, other: Object) -> Object:
    return {key: (value, other[key]) for key, value in one.items() if value != other[key]}


def assert_books_right(installation: Installation, kubelet: SimulatedKubelet) -> None:
    """All records are final and say what the kubelet says, and no pod is held."""
    records = installation.records()
    assert all(record.spec.sealed and record.spec.lost_settled for record in records)
    ledger, account = metered(records), held(kubelet, installation.namespace)
    assert ledger == account, {
        uid: (ledger.get(uid), account.get(uid))
        for uid in ledger.keys() | account.keys()
        if ledger.get(uid) != account.get(uid)
    }
    assert not kept_pods(installation)


def assert_one_gang_at_a_time(installation: Installation, kubelet: SimulatedKubelet) -> None:
    """No attempt has begun while an earlier one of its job held something, and none came twice."""
    job_of = {
        entry.pod_uid: record.spec.job.uid
        for record in installation.records()
        for entry in record.spec.entries
    }
    held_by: dict[str, dict[tuple[int, Step | None], list[int]]] = {}
    spans: dict[tuple[str, int], tuple[list[Any], list[Any]]] = {}
    for entry in kubelet.account(installation.namespace):
        assert entry.attempt is not None
        assert entry.finished is not None
        job = job_of[entry.uid]
        workers = held_by.setdefault(job, {}).setdefault((entry.attempt, entry.step), [])
        assert entry.worker not in workers, f"{entry.name} has a double"
        workers.append(entry.worker)
        since, until = spans.setdefault((job, entry.attempt), ([], []))
        since.append(entry.bound)
        until.append(entry.finished)
    for job, gangs in held_by.items():
        numbers = sorted(number for number, _ in gangs)
        assert numbers == list(range(1, len(numbers) + 1)), "an attempt came twice, or was left out"
        for earlier, later in itertools.pairwise(numbers):
            assert max(spans[job, earlier][1]) <= min(spans[job, later][0]), (job, later)
