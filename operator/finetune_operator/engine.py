"""The port: what any engine must do, and the one loop step that all of them share.

``local`` implements it with processes and files, ``kube`` with an API server, and the tests of the
core with a script and a virtual clock.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from finetune_api.job import FineTuneJob
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord
from finetune_operator.core.decision import (
    CreateGang,
    Decision,
    Event,
    ForgetGang,
    ReleaseGang,
    StopGang,
    WriteRecord,
)
from finetune_operator.core.observed import Observed
from finetune_operator.core.reconcile import reconcile


class Engine(Protocol):
    """What carries out decisions. Every method is idempotent: it may be asked again after a crash.

    Each may raise ``EngineError``; the look is then given up and tried again.
    """

    async def look(self) -> Observed:
        """Gather everything anew; never from what an earlier decision meant to do."""

    async def write_record(self, record: UsageRecord) -> None:
        """Make a record durable before returning."""

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> None:
        """Make the status durable before returning; refuse if the job changed since the look."""

    async def create_gang(self, action: CreateGang) -> None:
        """Make the gated pods of an attempt."""

    async def release_gang(self, action: ReleaseGang) -> None:
        """Let them run."""

    async def stop_gang(self, action: StopGang) -> None:
        """Ask them to end, with grace."""

    async def forget_gang(self, action: ForgetGang) -> None:
        """Let go of what is kept of them."""

    async def tell(self, events: Sequence[Event]) -> None:
        """Publish events."""


class EngineError(Exception):
    """An engine could not do what was asked; trying again may help."""


async def step(engine: Engine, now: datetime) -> Decision:
    """Look once, decide, and carry it out: records, then status, then the rest."""
    observed = await engine.look()
    decision = reconcile(observed, now)
    for action in decision.actions:
        if isinstance(action, WriteRecord):
            await engine.write_record(action.record)
    if decision.write_status:
        await engine.write_status(observed.job, decision.status)
    await engine.tell(decision.events)
    for action in decision.actions:
        match action:
            case CreateGang():
                await engine.create_gang(action)
            case ReleaseGang():
                await engine.release_gang(action)
            case StopGang():
                await engine.stop_gang(action)
            case ForgetGang():
                await engine.forget_gang(action)
            case WriteRecord():
                pass
    return decision
