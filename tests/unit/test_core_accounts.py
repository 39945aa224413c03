"""What people read while a job goes its way: every status and event of a few whole stories.

The accounts lie in ``accounts/``, one file a story. A change of a word, a figure or an order shows
as a difference there; if it is meant, ``FINETUNE_WRITE_ACCOUNTS=1`` writes them anew, to be read
before they are committed.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune_api.phases import ConditionType
from finetune_api.report import FailureClass
from finetune_api.status import JobStatus
from finetune_operator.core.decision import Decision
from harness.scripted import START, Fault, World, a_card, a_job, drive

ACCOUNTS = Path(__file__).parent / "accounts"
LIMITS = {"maxCost": "0.10", "maxGpuHours": "1"}

STORIES: dict[str, World] = {
    "complete": World(job=a_job(budget=LIMITS), cards=(a_card(),)),
    "smoke": World(job=a_job(), smoke=True, passed=False, max_ranks=1),
    "rank-death": World(
        job=a_job(), cards=(a_card(),), faults=(Fault(2, worker=1, after_seconds=28),)
    ),
    "out-of-memory": World(
        job=a_job(training={"globalBatchSize": 8}),
        faults=tuple(
            Fault(n, worker=0, after_seconds=9, exit_code=71, failure=FailureClass.DEVICE_OOM)
            for n in range(2, 10)
        ),
    ),
    "too-many-failures": World(
        job=a_job(policy={"backoffLimit": 1}),
        faults=tuple(Fault(n, worker=0, after_seconds=12) for n in range(2, 5)),
    ),
    "preempted": World(
        job=a_job(),
        faults=(
            Fault(2, worker=0, after_seconds=12, exit_code=143, disrupted="PreemptionByScheduler"),
        ),
    ),
    "gate-failed": World(job=a_job(), passed=False),
    "over-cost": World(job=a_job(budget={"maxCost": "0.02"}), cards=(a_card(),)),
    "over-hours": World(job=a_job(budget={"maxGpuHours": "0.1"})),
    "without-rate": World(job=a_job(budget=LIMITS)),
    "unplaced": World(job=a_job(policy={"startTimeoutSeconds": 30}), unplaced=frozenset({2})),
    "stalled": World(job=a_job(policy={"stallTimeoutSeconds": 60}), stall_attempt=2),
}


def moment(world: World, decision: Decision) -> list[str]:
    """What one look told, a line each: the status for people, its condition Running, the events."""
    status, told = decision.status, []
    at = f"{(world.now - START).total_seconds():.1f}"
    if decision.write_status:
        told.append(f"{at} {status.phase}, {status.reason}: {status.message}")
        told += [
            f"{at}   {one.type}={one.status} {one.reason}: {one.message}"
            for one in status.conditions
            if one.type == ConditionType.RUNNING
        ]
        told += [f"{at}   {line}" for line in figures(status)]
    return told + [f"{at} {one.kind} {one.reason}: {one.message}" for one in decision.events]


def figures(status: JobStatus) -> Iterator[str]:
    """Progress, estimate and cost, as far as there are some."""
    if progress := status.progress:
        yield f"{progress.percent}, {progress.eta} left, loss {progress.loss}"
    if estimate := status.estimate:
        left = f"{estimate.remaining_seconds_p50} to {estimate.remaining_seconds_p90}"
        yield f"{estimate.total_steps} steps, {left} s, {estimate.memory_bytes_per_rank} bytes"
    if cost := status.cost:
        yield f"{cost.display}, {cost.projected} to {cost.projected_p90} projected"


@pytest.mark.parametrize("name", STORIES)
async def test_a_story_is_told_as_its_account_has_it(name: str) -> None:
    world = STORIES[name]
    moments: list[str] = []

    def note(decision: Decision) -> bool:
        moments.extend(moment(world, decision))
        return decision.finished

    await drive(world, until=note)
    assert world.status is not None
    # What was measured is the same in all stories, and told in one.
    left_out = {"evaluation", "data", "model"} if name != "complete" else set()
    end = {key: value for key, value in world.status.wire().items() if key not in left_out}
    account = {"moments": moments, "end": end}
    text = yaml.safe_dump(account, sort_keys=False, allow_unicode=True, width=1000)
    path = ACCOUNTS / f"{name}.yaml"
    if os.environ.get("FINETUNE_WRITE_ACCOUNTS"):
        path.write_text(text, encoding="utf-8")
    assert yaml.safe_load(text) == yaml.safe_load(path.read_text(encoding="utf-8"))
