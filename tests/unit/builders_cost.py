"""What the tests of the cost code are made of: moments, prices, places, pods and records."""

from datetime import UTC, datetime, timedelta

from finetune_api.job import FineTuneJob
from finetune_api.ratecard import RateCard, RateEntry
from finetune_api.report import Marks, Step
from finetune_api.times import format_time, milliseconds_between, parse_time
from finetune_api.usage import JobReference, TimeClass, TimeShare, UsageEntry, UsageRecord
from finetune_operator.cost.pods import Placement, PodView
from finetune_operator.cost.records import open_record

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = NOON - timedelta(hours=1)
JOB_UID = "3f9c1b2e-0000-4000-8000-000000000001"


def at(seconds: float) -> datetime:
    """So many seconds after noon."""
    return NOON + timedelta(milliseconds=round(seconds * 1000))


def said(seconds: float) -> str:
    """The same, as it stands on the wire."""
    return format_time(at(seconds))


def a_price(amount: str, effective: datetime = LONG_AGO, **fields: object) -> RateEntry:
    """A rate card's entry for one T4, in effect since an hour before noon."""
    given = {"name": "t4", "gpu_type": "T4", "source": "an invoice", **fields}
    effective_from = format_time(effective)
    return RateEntry.model_validate(
        {"price_per_hour": amount, "effective_from": effective_from, **given}
    )


def a_card(*entries: RateEntry, name: str = "cloud", currency: str = "USD") -> RateCard:
    """A rate card with these entries."""
    return RateCard.model_validate(
        {
            "kind": "RateCard",
            "metadata": {"name": name},
            "spec": {"currency": currency, "entries": [entry.wire() for entry in entries]},
        }
    )


def a_place(**fields: object) -> Placement:
    """One whole T4 on a node of a cloud."""
    given: dict[str, object] = {
        "node": "node-a",
        "device": "T4",
        "milli_devices": 1000,
        "provider": "gcp",
        "region": "eu-west4",
        "capacity_type": "Spot",
        **fields,
    }
    return Placement(**given)  # type: ignore[arg-type]  # a test's own fields, by name


def a_pod(uid: str = "pod-0", bound: float | None = 0, **fields: object) -> PodView:
    """A pod of the first training attempt that is bound at noon and has not started."""
    given: dict[str, object] = {
        "step": Step.TRAIN,
        "attempt": 1,
        "worker": 0,
        "created_at": at(-10),
        "released": True,
        "placement": a_place(),
        "bound_at": None if bound is None else at(bound),
        **fields,
    }
    return PodView(uid=uid, **given)  # type: ignore[arg-type]  # a test's own fields, by name


def some_marks(**seconds: float) -> Marks:
    """Marks, with each moment given as seconds after noon, by the name of its field."""
    told = {
        name: said(value) if name.endswith("_at") else int(value) for name, value in seconds.items()
    }
    return Marks.model_validate(told)


def a_job() -> FineTuneJob:
    """A valid job."""
    return FineTuneJob.model_validate(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "reviews", "namespace": "team", "uid": JOB_UID},
            "spec": {
                "task": "text-classification",
                "model": {"uri": "model"},
                "dataset": {"train": "rows.csv"},
            },
        }
    )


def a_record(step: Step = Step.TRAIN, attempt: int = 1) -> UsageRecord:
    """The open record of an attempt, without entries."""
    return open_record(JobReference.of(a_job().metadata), step, attempt, "finetune-system")


def by_name(shares: tuple[TimeShare, ...]) -> dict[str, int]:
    """Shares as a table: class → milliseconds."""
    assert len({share.name for share in shares}) == len(shares)
    return {share.name.value: share.milliseconds for share in shares}


def classes_of(record: UsageRecord, uid: str = "pod-0") -> dict[str, int]:
    """The classes of one pod over all of its segments."""
    totals = dict.fromkeys(TimeClass, 0)
    for entry in record.spec.entries:
        for share in entry.classes if entry.pod_uid == uid else ():
            totals[share.name] += share.milliseconds
    return {name.value: total for name, total in totals.items() if total}


def counted(entry: UsageEntry) -> int:
    """Milliseconds of an entry, by its classes."""
    return sum(share.milliseconds for share in entry.classes)


def interval(entry: UsageEntry) -> int:
    """Milliseconds of an entry that ended, by its ends."""
    assert entry.until is not None
    return milliseconds_between(parse_time(entry.since), parse_time(entry.until))
