"""What Prometheus reads of the operator itself. One place for the names of its series."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from importlib.metadata import version
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from pydantic import ValidationError

from finetune_api.usage import UsageRecord
from finetune_operator.cost.ledger import ClassTotal, UseKey, use_by_device
from finetune_operator.kube.cache import Cache

# A record's uid and resourceVersion.
_Version = tuple[str, str]


class _Use(NamedTuple):
    """What one record adds up to."""

    namespace: str
    """Of its job."""
    attempt: tuple[str, int]
    """The job's uid, and the attempt's number."""
    revision: int
    sums: Mapping[UseKey, ClassTotal]


class OperatorMetrics:
    """The series, in a registry of their own.

    Parameters
    ----------
    jobs
        The cache that jobs are counted from.
    records
        The cache of usage records, whose use and cost are summed.
    """

    def __init__(self, jobs: Cache, records: Cache) -> None:
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
        self.registry.register(_Usage(records))

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


class _Usage(Collector):
    """What the usage records add up to when they are asked for; nothing is counted beside them.

    Gauges, since a record that somebody removes is no longer in the sum.
    """

    def __init__(self, records: Cache) -> None:
        self._records = records
        # What has ended adds up to the same for ever: with thousands of records, reading each one
        # at every scrape would hold up the event loop.
        self._ended: dict[_Version, _Use] = {}

    def collect(self) -> Iterator[Metric]:
        by = ["namespace", "device", "fake", "class"]
        seconds = GaugeMetricFamily(
            "finetune_usage_device_seconds",
            "Device time in the usage records, by what it went into.",
            labels=by,
        )
        cost = GaugeMetricFamily(
            "finetune_usage_cost",
            "Cost of the usage records in units of the currency; of what has no price, none.",
            labels=[*by, "currency"],
        )
        unreadable = GaugeMetricFamily(
            "finetune_usage_unreadable_records",
            "Usage records of another version than this operator, in none of the sums.",
        )
        uses, failed = self._uses()
        times: dict[tuple[str, ...], Fraction] = defaultdict(Fraction)
        costs: dict[tuple[str, ...], Fraction] = defaultdict(Fraction)
        for use in uses:
            for key, total in use.sums.items():
                labels = (
                    use.namespace,
                    key.device,
                    str(key.fake_gpu).lower(),
                    key.time_class.value,
                )
                times[labels] += total.milliseconds / 1000
                if key.currency:
                    costs[(*labels, key.currency)] += total.cost
        for family, sums in ((seconds, times), (cost, costs)):
            for where, amount in sums.items():
                family.add_metric(where, float(amount))
        unreadable.add_metric([], failed)
        yield from (seconds, cost, unreadable)

    def _uses(self) -> tuple[Collection[_Use], int]:
        """The use of each attempt by its record that counts; how many records can't be read."""
        now = datetime.now(UTC)
        uses: dict[tuple[str, int], _Use] = {}
        ended: dict[_Version, _Use] = {}
        failed = 0
        for raw in self._records.items():
            version = (raw["metadata"]["uid"], raw["metadata"]["resourceVersion"])
            use = self._ended.get(version)
            if use is None:
                try:
                    record = UsageRecord.model_validate(raw, extra="ignore")
                except ValidationError:
                    failed += 1
                    continue
                spec = record.spec
                use = _Use(
                    namespace=spec.job.namespace,
                    attempt=(spec.job.uid, spec.attempt),
                    revision=spec.revision,
                    sums=use_by_device([record], now),
                )
                if all(entry.until is not None for entry in spec.entries):
                    ended[version] = use
            else:
                ended[version] = use
            known = uses.get(use.attempt)
            if known is None or known.revision < use.revision:
                uses[use.attempt] = use
        self._ended = ended
        return uses.values(), failed
