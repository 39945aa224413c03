"""What each failure class leads to. The one table of it."""

from datetime import timedelta
from enum import StrEnum

from finetune_api.report import FailureClass
from finetune_api.status import JobStatus


class Response(StrEnum):
    """What happens after a failure."""

    RETRY_FREE = "RetryFree"
    """Not of the job's making: tried again, not counted."""
    RETRY_CHARGED = "RetryCharged"
    """Counted against policy.backoffLimit."""
    ADAPT = "Adapt"
    """Tried again with a smaller footprint, at the same global batch; not counted."""
    FAIL_NOW = "FailNow"
    """Trying again gives the same."""


RESPONSES: dict[FailureClass, Response] = {
    FailureClass.USER_ERROR: Response.FAIL_NOW,
    FailureClass.DATA_ERROR: Response.FAIL_NOW,
    FailureClass.HOST_OOM: Response.RETRY_CHARGED,
    FailureClass.DEVICE_OOM: Response.ADAPT,
    FailureClass.COLLECTIVE_HANG: Response.RETRY_CHARGED,
    FailureClass.STORAGE: Response.RETRY_CHARGED,
    FailureClass.NODE_FAULT: Response.RETRY_FREE,
    FailureClass.PREEMPTED: Response.RETRY_FREE,
    FailureClass.UNSCHEDULABLE: Response.RETRY_FREE,
    FailureClass.IMAGE_PULL: Response.RETRY_CHARGED,
    FailureClass.STALLED: Response.RETRY_CHARGED,
    FailureClass.REPORT_MISSED: Response.RETRY_FREE,
    FailureClass.UNKNOWN: Response.RETRY_CHARGED,
}


def failures_in_a_row(status: JobStatus, kind: FailureClass | None = None) -> int:
    """How many of the newest attempts failed (by one kind) with none between that did not."""
    kinds = set(FailureClass) if kind is None else {kind}
    count = 0
    for row in reversed(status.attempts):
        if row.reason not in kinds:
            break
        count += 1
    return count


_FIRST_DELAY = timedelta(seconds=2)
_LONGEST_DELAY = timedelta(minutes=5)


def retry_delay(in_a_row: int, jitter: float = 0.0) -> timedelta:
    """The wait before the next attempt: doubling with each failure in a row, up to five minutes.

    ``jitter`` (0 to 1) lengthens it by up to half, so that gangs that were in each other's way
    don't come back together.
    """
    doublings = min(16, max(0, in_a_row - 1))
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * (1 << doublings))
    return delay + delay * jitter / 2
