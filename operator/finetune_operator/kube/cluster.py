"""What the engines of all jobs share: the client, what is known of the cluster, settings, memory.

Made once by ``runtime``. The memory is only what may be lost: a restart asks again for it.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from finetune_api.ratecard import RateCard
from finetune_api.report import Progress
from finetune_operator.core.observed import StoredReport
from finetune_operator.kube.cache import Cache
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.events import EventWriter
from finetune_operator.kube.manifests.settings import TrainerSettings
from finetune_operator.kube.resources import (
    FINETUNE_JOBS,
    NODES,
    PODS,
    RATE_CARDS,
    USAGE_RECORDS,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the operator's installation decides for every job."""

    namespace: str
    """The operator's own: its Lease and the usage records are there."""
    trainer: TrainerSettings
    watch_namespaces: tuple[str, ...] = ()
    """Whose jobs it runs; empty: all."""
    control_interval: timedelta = timedelta(seconds=15)
    """The longest time between two looks at a running job."""


@dataclass(frozen=True, kw_only=True)
class Caches:
    """What the API server last said of what decisions are made from."""

    jobs: Cache = field(default_factory=lambda: Cache(FINETUNE_JOBS))
    pods: Cache = field(default_factory=lambda: Cache(PODS))
    records: Cache = field(default_factory=lambda: Cache(USAGE_RECORDS))
    rate_cards: Cache = field(default_factory=lambda: Cache(RATE_CARDS))
    nodes: Cache = field(default_factory=lambda: Cache(NODES))

    def all(self) -> tuple[Cache, ...]:
        """Every one of them."""
        return (self.jobs, self.pods, self.records, self.rate_cards, self.nodes)


@dataclass(kw_only=True)
class Memory:
    """What was asked for and need not be asked again, by job uid."""

    progress: dict[str, Progress] = field(default_factory=dict)
    reports: dict[str, dict[str, StoredReport]] = field(default_factory=dict)
    """By the report's digest."""
    created: dict[tuple[str, int], datetime] = field(default_factory=dict)
    """When an attempt's Job was last asked for."""

    refused: dict[str, str] = field(default_factory=dict)
    """Why the API server doesn't take what the job's next gang needs, where it doesn't."""
    looked: dict[str, datetime] = field(default_factory=dict)
    """When a job's pods were last listed, all that are recorded among them."""

    def has_created(self, uid: str) -> bool:
        """Whether a gang of the job was made by this process, and with it what the job has once."""
        return any(key[0] == uid for key in self.created)

    def forget(self, uid: str) -> None:
        """Let go of a job that is over or gone."""
        self.progress.pop(uid, None)
        self.reports.pop(uid, None)
        self.looked.pop(uid, None)
        self.refused.pop(uid, None)
        for key in [key for key in self.created if key[0] == uid]:
            del self.created[key]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster, as the operator of an installation sees it."""

    client: KubeClient
    caches: Caches
    events: EventWriter
    settings: Settings
    memory: Memory = field(default_factory=Memory)
    placing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a gang is let go, so that two of them don't both see that nobody is ahead."""

    def rate_cards(self) -> Iterator[RateCard]:
        """The cards that can be read; one that can't prices nothing."""
        for raw in self.caches.rate_cards.items():
            card = _rate_card(raw)
            if card is not None:
                yield card


def _rate_card(raw: Any) -> RateCard | None:
    try:
        return RateCard.model_validate(raw, extra="ignore")
    except ValidationError:
        # Of a version whose rules differ: the API server has admitted it by those.
        return None
