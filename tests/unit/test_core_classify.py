"""Why an attempt ended: the order of evidence, as a table."""

from dataclasses import replace
from datetime import timedelta

import pytest

from finetune_api.report import ExitCode, Failure, FailureClass, Step, Termination
from finetune_operator.core.classify import classify
from finetune_operator.core.failures import RESPONSES, Response, retry_delay
from finetune_operator.cost.pods import PodView
from harness.scripted import START, placement


def ended(
    worker: int,
    code: int | None,
    *,
    at: int = 10,
    told: FailureClass | None = None,
    by_peer: bool = False,
) -> PodView:
    """A pod that ended so many seconds after the start."""
    termination = None
    if told is not None:
        failure = Failure(failure_class=told, message="as told", rank=worker, by_peer=by_peer)
        termination = Termination(
            step=Step.TRAIN, attempt=2, worker=worker, exit_code=code or 0, failure=failure
        )
    return PodView(
        uid=f"pod-{worker}",
        step=Step.TRAIN,
        attempt=2,
        worker=worker,
        created_at=START,
        released=True,
        placement=placement(),
        bound_at=START,
        started_at=START,
        finished_at=START + timedelta(seconds=at),
        exit_code=code,
        termination=termination,
    )


@pytest.mark.parametrize(
    ("pods", "asked", "reason", "rank"),
    [
        ([ended(0, 0), ended(1, 0)], None, "Completed", None),
        ([ended(0, 75), ended(1, 75)], None, "Stopped", None),
        ([ended(0, 75), ended(1, 75)], "BudgetExceeded", "BudgetExceeded", None),
        ([ended(0, 0), ended(1, 0)], "SuspendedByUser", "Completed", None),
        ([ended(0, 137), ended(1, 75)], "SuspendedByUser", "SuspendedByUser", None),
        ([ended(0, 75), ended(1, 75)], "Stalled", "Stalled", None),
        ([], None, "NodeFault", None),
        ([ended(0, None), ended(1, 75)], None, "NodeFault", None),
        ([ended(0, 137), ended(1, 75)], None, "Unknown", None),
        ([ended(0, 64), ended(1, 75)], None, "UserError", None),
        ([ended(0, 65), ended(1, 75)], None, "DataError", None),
        ([ended(0, 71), ended(1, 75)], None, "DeviceOOM", None),
        ([ended(0, 74), ended(1, 75)], None, "Storage", None),
        ([ended(0, 70, told=FailureClass.COLLECTIVE_HANG)], None, "CollectiveHang", 0),
        (
            [ended(0, 70, at=12, told=FailureClass.UNKNOWN), ended(1, 137, at=11)],
            None,
            "Unknown",
            None,
        ),
        (
            [
                ended(0, 70, at=12, told=FailureClass.UNKNOWN),
                ended(1, 71, at=11, told=FailureClass.DEVICE_OOM),
            ],
            None,
            "DeviceOOM",
            1,
        ),
        (
            [
                ended(0, 70, at=10, told=FailureClass.UNKNOWN, by_peer=True),
                ended(1, 71, at=10, told=FailureClass.DEVICE_OOM),
            ],
            None,
            "DeviceOOM",
            1,
        ),
        ([ended(0, 70, told=FailureClass.UNKNOWN, by_peer=True)], None, "Unknown", 0),
        ([replace(ended(0, 137), ended_as="OOMKilled"), ended(1, 75)], None, "HostOOM", None),
        (
            [ended(0, 70, at=9), replace(ended(1, 143), disrupted="EvictionByEvictionAPI")],
            None,
            "Preempted",
            None,
        ),
    ],
)
def test_the_earliest_evidence_decides(
    pods: list[PodView], asked: str | None, reason: str, rank: int | None
) -> None:
    outcome = classify(Step.TRAIN, pods, asked)
    assert (str(outcome.reason), outcome.rank) == (reason, rank)


def test_a_signal_alone_is_no_out_of_memory() -> None:
    outcome = classify(Step.TRAIN, [ended(0, 128 + 9)], None)
    assert outcome.failure is FailureClass.UNKNOWN
    assert "signal 9" in outcome.message


def test_every_failure_class_has_a_response() -> None:
    assert set(RESPONSES) == set(FailureClass)
    assert {RESPONSES[FailureClass.USER_ERROR], RESPONSES[FailureClass.DATA_ERROR]} == {
        Response.FAIL_NOW
    }
    assert RESPONSES[FailureClass.PREEMPTED] is Response.RETRY_FREE


@pytest.mark.parametrize(
    ("step", "code", "message"),
    [
        (Step.TRAIN, ExitCode.STOPPED, "Stopped, the work saved."),
        (Step.TRAIN, 137, "Stopped; worker 0 did not save within the grace."),
        (Step.PREPARE, 143, "Stopped; the step begins anew when the job goes on."),
        (Step.EVALUATE, 143, "Stopped; the step begins anew when the job goes on."),
    ],
)
def test_a_stop_says_what_becomes_of_the_work(step: Step, code: int, message: str) -> None:
    assert classify(step, [ended(0, code)], "Interrupted").message == message


def test_an_exit_code_that_means_stopped_is_no_failure() -> None:
    assert classify(Step.TRAIN, [ended(0, ExitCode.STOPPED)], None).failure is None


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 2), (1, 2), (2, 4), (3, 8), (8, 256), (9, 300), (100, 300)]
)
def test_the_wait_doubles_up_to_five_minutes(failures: int, seconds: int) -> None:
    assert retry_delay(failures) == timedelta(seconds=seconds)
