"""A real Prometheus, configured as docs/monitoring.md says, sees what the ledger says."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from finetune_api.report import Step
from finetune_operator.cost.records import latest
from harness.processes import REPOSITORY
from harness.prometheus import GUIDE, Sample, documented_series, running_prometheus
from harness.realcluster import Bench, training_job
from harness.stories import COMPLETED, story

REFERENCE = REPOSITORY / "docs" / "reference.md"


def test_prometheus_finds_every_documented_series_and_its_sums_are_those_of_the_ledger(
    bench: Bench, tmp_path: Path
) -> None:
    with running_prometheus(tmp_path) as prometheus:
        uid = bench.apply(training_job("watched", steps=200))
        bench.wait_step("watched", 2, 50)
        (seen,) = prometheus.wait(
            'finetune_trainer_step{finetune_job="watched"} > 0', lambda found: len(found) == 1
        )
        labels, _ = seen
        (leader, _) = bench.pods(uid, Step.TRAIN, 2)
        assert labels["namespace"] == bench.namespace
        assert labels["pod"] == leader["metadata"]["name"]

        status = bench.wait_over("watched")
        assert story(status)[-1] == (Step.EVALUATE, COMPLETED)

        # Nothing of the namespace runs any more, so the sums stand still.
        records = latest(record for one in bench.jobs() for record in bench.records(one))
        entries = [entry for record in records for entry in record.spec.entries]
        for fake in ("true", "false"):
            held = sum(
                share.milliseconds * entry.milli_devices
                for entry in entries
                for share in entry.classes
                if str(entry.fake_gpu).lower() == fake
            )
            where = f'namespace="{bench.namespace}",fake="{fake}"'
            is_held = pytest.approx(held / 1_000_000, abs=1e-6)
            prometheus.wait(
                f"sum(finetune_usage_device_seconds{{{where}}})",
                partial(_is_value, is_held),
            )
        cost = sum(float(record.spec.cost or 0) for record in records)
        ((by, spent),) = prometheus.query(
            f'sum by (currency) (finetune_usage_cost{{namespace="{bench.namespace}"}})'
        )
        assert by == {"currency": "USD"}
        # Each record's cost is rounded to a millionth.
        assert spent == pytest.approx(cost, abs=1e-6 * len(records))

        documented = documented_series("Series of a training", GUIDE)
        documented |= documented_series("Metrics of the operator", REFERENCE)
        assert len(documented) > 20
        scraped = prometheus.names()
        missing = {
            name for name in documented if name not in scraped and f"{name}_count" not in scraped
        }
        # It has nothing to say of errors that did not happen.
        assert missing <= {"finetune_reconcile_errors_total"}
        undocumented = {
            name
            for name in scraped
            if name.startswith("finetune_")
            and not name.endswith(("_created", "_bucket", "_count", "_sum"))
        } - documented
        assert not undocumented


def _is_value(value: object, found: list[Sample]) -> bool:
    return [one for _, one in found] == [value]
