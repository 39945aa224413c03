"""What becomes of a job on a real API server, with the operator as a process of its own."""

from __future__ import annotations

import pytest

from finetune_api.phases import ConditionType, Phase, Reason
from finetune_api.report import ExitCode, FailureClass, Step
from harness.installation import IMAGE, Installation, a_job, metered, training
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Evict, Fault, ImagePullFailure, Kill, Script
from harness.stories import (
    COMPLETED,
    assert_books_closed,
    condition,
    events,
    story,
    until_training,
)

PREPARED = (Step.PREPARE, COMPLETED)
TRAINED = (Step.TRAIN, COMPLETED)
EVALUATED = (Step.EVALUATE, COMPLETED)
SLOWLY = 0.3
"""Seconds per step where something is to come in between."""


def test_a_job_goes_from_kubectl_apply_to_its_verdict(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    with installation.operator():
        uid = installation.apply(a_job())
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE, status
    assert story(status) == [PREPARED, TRAINED, EVALUATED]
    assert status.evaluation is not None
    assert status.evaluation.passed
    assert status.resolved is not None
    assert status.resolved.image == IMAGE
    (model,) = (one.uri for one in status.artifacts if one.name == "model")
    (claim,) = [
        one["metadata"]["name"]
        for one in installation.children("v1 persistentvolumeclaims")
        if one["metadata"]["name"] != "sources"
    ]
    assert model == f"pvc://{claim}/{uid}/output/model"
    assert len(installation.records(uid)) == 3
    assert_books_closed(installation, kubelet, uid)


def test_a_worker_that_dies_ends_its_gang_and_the_next_attempt_goes_on_from_the_newest_checkpoint(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    dies = Kill(
        attempt=2,
        worker=1,
        at_step=6,
        exit_code=ExitCode.INTERNAL,
        failure=FailureClass.UNKNOWN,
        message="RuntimeError: the last line of rank 1",
    )
    kubelet.play(installation.namespace, Script(faults=(dies,)))
    with installation.operator():
        uid = installation.apply(a_job())
        status = installation.wait_over("reviews")
    assert story(status) == [PREPARED, (Step.TRAIN, "Unknown"), TRAINED, EVALUATED]
    failed, resumed = status.attempts[1:3]
    assert (failed.rank, failed.charged) == (1, True)
    assert failed.message is not None
    assert "the last line of rank 1" in failed.message
    assert any("the last line of rank 1" in told for told in events(installation, "Unknown"))
    assert status.charged_failures == 1
    assert resumed.marks is not None
    assert (resumed.marks.resumed_from_step, resumed.marks.resumed_from_attempt) == (4, 2)
    first, second = (training(kubelet, installation.namespace, attempt) for attempt in (2, 3))
    assert len(first) == len(second) == 2
    ends = [entry.finished for entry in first if entry.finished is not None]
    assert max(ends) <= min(entry.bound for entry in second)
    assert_books_closed(installation, kubelet, uid)


def test_out_of_device_memory_halves_the_micro_batch_at_the_same_global_batch(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    dies = Kill(
        attempt=2,
        at_step=2,
        exit_code=ExitCode.DEVICE_OUT_OF_MEMORY,
        failure=FailureClass.DEVICE_OOM,
        message="CUDA out of memory",
    )
    kubelet.play(installation.namespace, Script(faults=(dies,)))
    with installation.operator():
        installation.apply(a_job())
        before = installation.wait("reviews", lambda status: status.resolved is not None).resolved
        status = installation.wait_over("reviews")
    assert story(status) == [PREPARED, (Step.TRAIN, "DeviceOOM"), TRAINED, EVALUATED]
    assert status.charged_failures == 0
    assert before is not None
    assert status.resolved is not None
    assert status.resolved.micro_batch_size * 2 == before.micro_batch_size
    assert status.resolved.accumulation_steps == 2 * before.accumulation_steps


@pytest.mark.parametrize(
    ("fault", "failure", "charged"),
    [
        (Kill(attempt=2, worker=1, at_step=5, reason="OOMKilled"), FailureClass.HOST_OOM, 1),
        (
            Kill(attempt=2, worker=1, at_step=5, message="first line\nlast words"),
            FailureClass.UNKNOWN,
            1,
        ),
        (Evict(attempt=2, worker=1, at_step=5), FailureClass.PREEMPTED, 0),
        (Evict(attempt=2, worker=1, at_step=5, pressure=True), FailureClass.PREEMPTED, 0),
    ],
    ids=["killed for its memory", "killed by a signal", "evicted", "evicted under pressure"],
)
def test_what_the_pods_show_decides_the_failure_and_whether_it_is_charged(
    installation: Installation,
    kubelet: SimulatedKubelet,
    fault: Fault,
    failure: FailureClass,
    charged: int,
) -> None:
    kubelet.play(installation.namespace, Script(faults=(fault,)))
    with installation.operator():
        uid = installation.apply(a_job())
        status = installation.wait_over("reviews")
    assert story(status) == [PREPARED, (Step.TRAIN, failure), TRAINED, EVALUATED]
    assert status.charged_failures == charged
    if isinstance(fault, Kill) and fault.message:
        assert status.attempts[1].message is not None
        assert fault.message in status.attempts[1].message
        assert any(told.endswith("last words") for told in events(installation, failure))
    assert_books_closed(installation, kubelet, uid)


def test_a_pod_that_a_person_deletes_is_an_attempt_that_ends_with_its_work_saved(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, Script(step_seconds=SLOWLY))
    with installation.operator():
        uid = installation.apply(a_job())
        until_training(installation)
        (entry, _) = training(kubelet, installation.namespace, 2)
        installation.cluster.kubectl(
            "delete", "pod", "-n", installation.namespace, entry.name, "--wait=false"
        )
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE
    assert [step for step, _ in story(status)] == [
        Step.PREPARE,
        Step.TRAIN,
        Step.TRAIN,
        Step.EVALUATE,
    ]
    assert status.charged_failures == 0
    assert_books_closed(installation, kubelet, uid)


def test_a_user_error_fails_the_job_at_once(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    dies = Kill(
        at_step=1,
        exit_code=ExitCode.USAGE,
        failure=FailureClass.USER_ERROR,
        message="model.uri holds no config.json",
    )
    kubelet.play(installation.namespace, Script(faults=(dies,)))
    with installation.operator():
        uid = installation.apply(a_job())
        status = installation.wait_over("reviews")
    assert story(status) == [PREPARED, (Step.TRAIN, "UserError")]
    failed = condition(status, ConditionType.FAILED)
    assert (status.phase, failed.status, failed.reason) == (Phase.FAILED, "True", "UserError")
    assert "model.uri holds no config.json" in failed.message
    assert_books_closed(installation, kubelet, uid)


def test_failures_beyond_the_backoff_limit_fail_the_job(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, Script(faults=(Kill(at_step=1),)))
    with installation.operator():
        uid = installation.apply(a_job(policy={"gracePeriodSeconds": 10, "backoffLimit": 1}))
        status = installation.wait_over("reviews")
    assert story(status) == [PREPARED, (Step.TRAIN, "Unknown"), (Step.TRAIN, "Unknown")]
    assert condition(status, ConditionType.FAILED).reason == Reason.BACKOFF_LIMIT_EXCEEDED
    assert_books_closed(installation, kubelet, uid)


def test_a_gate_that_does_not_hold_fails_the_job(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, Script(passed=False))
    with installation.operator():
        installation.apply(a_job())
        status = installation.wait_over("reviews")
    assert story(status) == [PREPARED, TRAINED, EVALUATED]
    assert status.phase is Phase.FAILED
    assert condition(status, ConditionType.FAILED).reason == Reason.GATE_FAILED
    assert condition(status, ConditionType.EVALUATION_PASSED).status == "False"


def test_an_image_that_can_not_be_had_gives_the_devices_back_and_is_charged(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, Script(faults=(ImagePullFailure(attempt=2, worker=1),)))
    with installation.operator():
        uid = installation.apply(a_job(policy={"gracePeriodSeconds": 5, "startTimeoutSeconds": 10}))
        status = installation.wait_over("reviews")
    assert story(status) == [PREPARED, (Step.TRAIN, "ImagePull"), TRAINED, EVALUATED]
    assert status.charged_failures == 1
    assert status.attempts[1].message is not None
    assert "ImagePullBackOff" in status.attempts[1].message
    (waited,) = [one for one in training(kubelet, installation.namespace, 2) if not one.started]
    assert waited.finished is not None
    since, until = metered(installation.records(uid))[waited.uid]
    assert since == waited.bound
    assert waited.finished <= until <= training(kubelet, installation.namespace, 3)[0].bound


def test_a_gang_that_does_not_fit_gives_its_devices_back_and_is_not_charged(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.node("narrow", gpus=1, gpu_product="narrow")
    compute = {"workers": 2, "gpusPerWorker": 1, "gpuType": "narrow", "cpu": "1", "memory": "1Gi"}
    policy = {"gracePeriodSeconds": 5, "startTimeoutSeconds": 10}
    with installation.operator():
        uid = installation.apply(a_job(compute=compute, policy=policy))
        installation.wait("reviews", lambda status: len(status.attempts) > 2)
        kubelet.node("wide", gpus=2, gpu_product="narrow")
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE
    assert story(status)[:2] == [PREPARED, (Step.TRAIN, "Unschedulable")]
    assert status.charged_failures == 0
    assert status.attempts[1].message is not None
    assert "nvidia.com/gpu" in status.attempts[1].message
    (bound,) = training(kubelet, installation.namespace, 2)
    assert bound.exit_code == ExitCode.STOPPED
    # The waiting pod would take the devices that the other one gives back.
    assert installation.pods_deleted()[1] == bound.name
    assert_books_closed(installation, kubelet, uid)
