"""What Prometheus reads of the usage records is what they add up to."""

from __future__ import annotations

import pytest

from finetune_api.usage import UsageRecord
from finetune_operator.cost.ledger import totals
from finetune_operator.cost.pods import PodView
from finetune_operator.cost.records import meter
from finetune_operator.kube.cache import Cache
from finetune_operator.kube.resources import FINETUNE_JOBS, USAGE_RECORDS
from finetune_operator.runtime.metrics import OperatorMetrics
from unit.builders_cost import a_card, a_pod, a_price, a_record, at

SECONDS, COST, UNREADABLE = (
    f"finetune_usage_{name}" for name in ("device_seconds", "cost", "unreadable_records")
)


def put(
    records: Cache,
    name: str,
    version: int,
    *pods: PodView,
    attempt: int = 1,
    revision: int = 0,
) -> UsageRecord:
    record = meter(a_record(attempt=attempt), pods, None, [a_card(a_price("0.36"))], at(100))
    raw = record.wire()
    raw["spec"]["revision"] = revision
    raw["metadata"] |= {
        "name": name,
        "namespace": "system",
        "uid": name,
        "resourceVersion": str(version),
    }
    records.put(raw)
    return record


def scraped(metrics: OperatorMetrics) -> dict[str, float]:
    sums: dict[str, float] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


def test_every_scrape_tells_the_records_as_they_are_then() -> None:
    records = Cache(USAGE_RECORDS)
    metrics = OperatorMetrics(Cache(FINETUNE_JOBS), records)
    first = put(records, "a", 1, a_pod("pod-0", started_at=at(10), finished_at=at(60)))
    pod = a_pod("pod-1", attempt=2, started_at=at(10), finished_at=at(90))
    second = put(records, "b", 2, pod, attempt=2)
    for expected in ([first, second], [first, second]):
        sums = totals(expected, "USD", at(100))
        found = scraped(metrics)
        assert found[SECONDS] == pytest.approx(float(sums.gpu_milliseconds) / 1000)
        assert found[COST] == pytest.approx(float(sums.spent.amount))
    # A later version of the same record takes the place of the one that is remembered.
    pod = a_pod("pod-1", attempt=2, started_at=at(10), finished_at=at(99))
    longer = put(records, "b", 3, pod, attempt=2)
    later = totals([first, longer], "USD", at(100))
    assert scraped(metrics)[SECONDS] == pytest.approx(float(later.gpu_milliseconds) / 1000)
    assert later.gpu_milliseconds > sums.gpu_milliseconds


def test_a_record_that_cannot_be_read_is_counted_and_hides_no_other() -> None:
    records = Cache(USAGE_RECORDS)
    metrics = OperatorMetrics(Cache(FINETUNE_JOBS), records)
    put(records, "a", 1, a_pod("pod-0", started_at=at(10), finished_at=at(60)))
    alone = scraped(metrics)
    metadata = {"name": "b", "namespace": "system", "uid": "b", "resourceVersion": "2"}
    records.put({"metadata": metadata, "spec": {"of": "another version"}})
    both = scraped(metrics)
    assert (alone[UNREADABLE], both[UNREADABLE]) == (0, 1)
    assert both[SECONDS] == alone[SECONDS] > 0


def test_of_a_corrected_record_only_the_correction_is_told() -> None:
    records = Cache(USAGE_RECORDS)
    metrics = OperatorMetrics(Cache(FINETUNE_JOBS), records)
    put(records, "a", 1, a_pod("pod-0", started_at=at(10), finished_at=at(60)))
    assert scraped(metrics)[SECONDS] == 60
    put(records, "a-r1", 2, a_pod("pod-0", started_at=at(10), finished_at=at(99)), revision=1)
    # Read, and then remembered.
    assert [scraped(metrics)[SECONDS] for _ in range(2)] == [99, 99]
