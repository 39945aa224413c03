"""Jobs that are stopped on purpose and go on: by a person, and by a limit that is raised again."""

from __future__ import annotations

from finetune_api.phases import ConditionType, Phase, Reason
from finetune_api.report import ExitCode, Step
from harness.installation import Installation, a_job, training
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Script
from harness.stories import (
    COMPLETED,
    assert_books_closed,
    condition,
    story,
    until_step,
    until_training,
)

SLOWLY = Script(step_seconds=0.3)


def suspended(installation: Installation, reason: Reason) -> None:
    """Wait until the job is suspended for that reason, and nothing is held for it."""
    status = installation.wait(
        "reviews", lambda status: (status.phase, status.reason) == (Phase.SUSPENDED, reason)
    )
    assert condition(status, ConditionType.SUSPENDED).reason == reason
    live = [
        pod["metadata"]["name"]
        for pod in installation.children("v1 pods")
        if pod["status"]["phase"] not in ("Succeeded", "Failed")
    ]
    assert not live


def test_a_suspended_job_saves_holds_nothing_and_goes_on_from_its_checkpoint(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator():
        uid = installation.apply(a_job())
        until_step(installation, 2)
        change = ("patch", "ftj", "reviews", "-n", installation.namespace, "--type=merge", "-p")
        installation.cluster.kubectl(*change, '{"spec": {"suspend": true}}')
        suspended(installation, Reason.SUSPENDED_BY_USER)
        ended = training(kubelet, installation.namespace, 2)
        assert [entry.exit_code for entry in ended] == [ExitCode.STOPPED] * 2
        installation.cluster.kubectl(*change, '{"spec": {"suspend": false}}')
        status = installation.wait_over("reviews")
    assert story(status) == [
        (Step.PREPARE, COMPLETED),
        (Step.TRAIN, Reason.SUSPENDED_BY_USER),
        (Step.TRAIN, COMPLETED),
        (Step.EVALUATE, COMPLETED),
    ]
    first, second = (row.marks for row in status.attempts[1:3])
    assert first is not None
    assert second is not None
    assert first.checkpoint_step
    assert second.resumed_from_step == first.checkpoint_step
    assert (status.phase, status.charged_failures) == (Phase.COMPLETE, 0)
    assert_books_closed(installation, kubelet, uid)


def test_a_suspended_job_gets_more_workers_and_goes_on(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator():
        uid = installation.apply(a_job())
        until_step(installation, 2)
        installation.patch("reviews", {"suspend": True})
        suspended(installation, Reason.SUSPENDED_BY_USER)
        installation.patch("reviews", {"compute": {"workers": 4}})
        installation.patch("reviews", {"suspend": False})
        status = installation.wait_over("reviews")
    assert (status.phase, len(training(kubelet, installation.namespace, 3))) == (Phase.COMPLETE, 4)
    assert status.resolved is not None
    assert (status.resolved.workers, status.resolved.accumulation_steps) == (4, 1)
    first, second = (row.marks for row in status.attempts[1:3])
    assert first is not None
    assert second is not None
    assert second.resumed_from_step == first.checkpoint_step
    assert_books_closed(installation, kubelet, uid)


def test_a_job_whose_claim_was_made_for_one_worker_gets_no_second_one(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    alone = {"workers": 1, "gpusPerWorker": 1, "cpu": "1", "memory": "1Gi"}
    with installation.operator():
        installation.apply(a_job(compute=alone))
        until_training(installation)
        installation.patch("reviews", {"suspend": True})
        suspended(installation, Reason.SUSPENDED_BY_USER)
        installation.patch("reviews", {"compute": {"workers": 2}})
        installation.patch("reviews", {"suspend": False})
        suspended(installation, Reason.INVALID_SPEC)
        assert "set it back to 1" in (installation.status("reviews").message or "")


def test_a_budget_that_is_changed_while_suspended_holds_from_then_on(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator():
        installation.apply(a_job())
        until_training(installation)
        installation.patch("reviews", {"suspend": True})
        suspended(installation, Reason.SUSPENDED_BY_USER)
        installation.patch("reviews", {"budget": {"maxGpuHours": "0.001"}, "suspend": False})
        suspended(installation, Reason.BUDGET_EXCEEDED)
        installation.patch("reviews", {"budget": {"maxGpuHours": "1"}})
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE
    assert [step for step, _ in story(status)].count(Step.TRAIN) == 2


def test_a_job_that_is_suspended_before_it_starts_starts_nothing(
    installation: Installation,
) -> None:
    with installation.operator():
        installation.apply(a_job(suspend=True))
        suspended(installation, Reason.SUSPENDED_BY_USER)
        assert not installation.children()
        installation.patch("reviews", {"suspend": False})
        assert installation.wait_over("reviews").phase is Phase.COMPLETE
