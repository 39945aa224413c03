"""What Prometheus reads of the operator itself. One place for the names of its series."""

from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_operator.kube.cache import Cache


class OperatorMetrics:
    """The series, in a registry of their own.

    Parameters
    ----------
    jobs
        The cache that jobs are counted from.
    """

    def __init__(self, jobs: Cache) -> None:
        self.registry = CollectorRegistry()
        self.leader = Gauge(
            "finetune_leader", "1 while this process holds the Lease.", registry=self.registry
        )
        self.reconciles = Histogram(
            "finetune_reconcile_duration_seconds",
            "Time of one look at a job, its writes included.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.errors = Counter(
            "finetune_reconcile_errors",
            "Looks that were given up and are tried again.",
            ["reason"],
            registry=self.registry,
        )
        self.requests = Counter(
            "finetune_api_requests",
            "Requests to the API server, but for watches.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.overdue = Gauge(
            "finetune_queue_overdue_jobs",
            "Jobs that wait for a worker.",
            registry=self.registry,
        )
        self.last_event = Gauge(
            "finetune_watch_last_event_timestamp_seconds",
            "When a watch last brought something.",
            ["resource"],
            registry=self.registry,
        )
        build = Gauge(
            "finetune_build_info", "Version of the operator.", ["version"], registry=self.registry
        )
        build.labels(version("finetune-operator")).set(1)
        self.registry.register(_Jobs(jobs))

    def count_request(self, verb: str, resource: str, code: int) -> None:
        """Count one request; the client's hook."""
        self.requests.labels(verb, resource, str(code)).inc()


class _Jobs(Collector):
    """Jobs by namespace and phase, counted when they are asked for."""

    def __init__(self, jobs: Cache) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        counts: dict[tuple[str, str], int] = {}
        for job in self._jobs.items():
            phase = job.get("status", {}).get("phase") or "Pending"
            key = (job["metadata"]["namespace"], phase)
            counts[key] = counts.get(key, 0) + 1
        family = GaugeMetricFamily(
            "finetune_jobs", "FineTuneJobs by phase.", labels=["namespace", "phase"]
        )
        for key, count in counts.items():
            family.add_metric(key, count)
        yield family
