"""What each failure class leads to. The one table of it."""

from datetime import timedelta
from enum import StrEnum

from finetune_api.report import FailureClass


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
    FailureClass.UNKNOWN: Response.RETRY_CHARGED,
}

_FIRST_DELAY = timedelta(seconds=2)
_LONGEST_DELAY = timedelta(minutes=5)


def retry_delay(charged_failures: int) -> timedelta:
    """The wait before the next attempt: doubling with each charged failure, up to five minutes."""
    doublings = min(16, max(0, charged_failures - 1))
    return min(_LONGEST_DELAY, _FIRST_DELAY * (1 << doublings))
