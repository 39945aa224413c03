"""What a job costs: priced by rate cards, metered to the second, and stopped at its limit."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import pytest

from finetune_api.phases import ConditionType, Phase, Reason
from finetune_api.report import ExitCode, Step
from finetune_operator.cost.money import amount_text
from harness.cluster import CUSTOM
from harness.installation import Installation, a_job, training
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Kill, Script
from harness.objects import Object
from harness.stories import (
    a_card,
    assert_books_closed,
    condition,
    story,
    until_step,
    until_training,
)

COMPUTE = {"workers": 2, "gpusPerWorker": 1, "gpuType": "priced", "cpu": "1", "memory": "1Gi"}
# One a second, a hundredth, and a thousandth.
GPU: Object = {"name": "gpu", "gpuType": "priced", "pricePerHour": "3600"}
CORE: Object = {"name": "core", "resource": "cpu", "pricePerHour": "36"}
GIB: Object = {"name": "gib", "resource": "memory", "pricePerHour": "3.6"}
PER_GPU_SECOND = Fraction(1)
PER_POD_SECOND = Fraction(11, 1000)
"""Of a pod with a core and a GiB, and without a GPU."""
SLOWLY = Script(step_seconds=0.3)


@pytest.fixture(scope="module", autouse=True)
def priced(kubelet: SimulatedKubelet) -> str:
    """A node with accelerators that no other test uses."""
    return kubelet.node("priced", gpus=4, gpu_product="priced")


@pytest.fixture
def card(installation: Installation) -> Iterator[str]:
    """The rate card's name."""
    with a_card(installation.cluster, GPU, CORE, GIB) as name:
        yield name


def held_cost(kubelet: SimulatedKubelet, namespace: str) -> Fraction:
    """What the kubelet's own account comes to at the card's prices."""
    return sum(
        (
            entry.gpu_seconds * PER_GPU_SECOND if entry.gpus else entry.seconds * PER_POD_SECOND
            for entry in kubelet.account(namespace)
        ),
        Fraction(0),
    )


@pytest.mark.usefixtures("card")
def test_a_job_costs_exactly_what_its_pods_held_at_the_price_of_their_devices(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, Script(prepare_seconds=2, step_seconds=0.2))
    with installation.operator():
        uid = installation.apply(a_job(compute=COMPUTE))
        status = installation.wait_over("reviews")
    cost = held_cost(kubelet, installation.namespace)
    assert status.cost is not None
    assert status.cost.spent == amount_text(cost)
    assert cost > 2 * PER_POD_SECOND
    assert (status.cost.unpriced_hours, status.cost.fake_gpu) == ("0.000000", False)
    costs = [Fraction(record.spec.cost or 0) for record in installation.records(uid)]
    assert sum(costs) == cost
    assert_books_closed(installation, kubelet, uid)


@pytest.mark.usefixtures("card")
def test_steps_that_are_made_twice_are_wasted(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    dies = Kill(attempt=2, worker=1, at_step=7)
    kubelet.play(installation.namespace, Script(step_seconds=0.3, faults=(dies,)))
    with installation.operator():
        installation.apply(a_job(compute=COMPUTE))
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE
    assert status.cost is not None
    assert 0 < Fraction(status.cost.wasted) < Fraction(status.cost.spent)
    assert status.cost.spent == amount_text(held_cost(kubelet, installation.namespace))
    assert Fraction(status.attempts[1].lost_device_seconds) > 0


@pytest.mark.usefixtures("card")
def test_a_job_stops_below_its_limit_with_its_work_saved_and_goes_on_when_it_is_raised(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    limit = 54
    spec: Object = {
        "compute": COMPUTE,
        "training": {"maxSteps": 400, "globalBatchSize": 8},
        "budget": {"maxCost": str(limit)},
        "policy": {"gracePeriodSeconds": 5},
    }
    kubelet.play(installation.namespace, Script(step_seconds=0.2))
    with installation.operator():
        uid = installation.apply(a_job(**spec))
        stopped = installation.wait("reviews", lambda status: status.phase is Phase.SUSPENDED)
        assert condition(stopped, ConditionType.SUSPENDED).reason == Reason.BUDGET_EXCEEDED
        assert "Raise budget.maxCost" in condition(stopped, ConditionType.SUSPENDED).message
        assert 0 < held_cost(kubelet, installation.namespace) <= limit
        ended = training(kubelet, installation.namespace, 2)
        assert [entry.exit_code for entry in ended] == [ExitCode.STOPPED] * 2
        kubelet.play(installation.namespace, Script(step_seconds=0.001, save_seconds=0.0))
        installation.patch("reviews", {"budget": {"maxCost": "1000"}})
        status = installation.wait_over("reviews")
    assert status.phase is Phase.COMPLETE
    assert status.attempts[1].reason == Reason.BUDGET_EXCEEDED
    assert status.attempts[2].marks is not None
    assert status.attempts[2].marks.resumed_from_step > 0
    assert_books_closed(installation, kubelet, uid)


def test_a_price_is_that_of_the_binding_whatever_becomes_of_the_card(
    installation: Installation, kubelet: SimulatedKubelet, card: str
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator():
        uid = installation.apply(a_job(compute=COMPUTE))
        until_step(installation, 2)
        (sealed,) = [record for record in installation.records(uid) if record.spec.sealed]
        because = {"effectiveFrom": "2026-01-01T00:00:00Z", "source": "dearer"}
        dearer = [{**GPU, **because, "pricePerHour": "7200"}, {**CORE, **because}]
        changed = installation.cluster.request(
            "PATCH",
            f"{CUSTOM}/ratecards/{card}",
            {"spec": {"entries": [*dearer, {**GIB, **because}]}},
            content_type="application/merge-patch+json",
        )
        assert changed.status == 200, changed.message
        installation.wait_over("reviews")
    prices = {
        record.spec.step: {entry.rate.price_per_hour for entry in record.spec.entries if entry.rate}
        for record in installation.records(uid)
    }
    assert prices[Step.TRAIN] == {"3600"}
    assert prices[Step.EVALUATE] == {"7200"}
    assert sealed in installation.records(uid)


def test_a_gang_under_a_limit_ends_by_itself_when_no_operator_comes_back_in_time(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    policy = {"gracePeriodSeconds": 5, "startTimeoutSeconds": 10, "activeDeadlineSeconds": 4}
    kubelet.play(installation.namespace, Script(step_seconds=3))
    with installation.operator() as operator:
        uid = installation.apply(a_job(policy=policy))
        until_training(installation)
        operator.kill()
        installation.until(
            lambda: all(entry.finished for entry in training(kubelet, installation.namespace, 2)),
            "its pods to end",
        )
        ended = training(kubelet, installation.namespace, 2)
        assert [entry.exit_code for entry in ended] == [ExitCode.STOPPED] * 2
        operator.start()
        status = installation.wait_over("reviews")
    assert condition(status, ConditionType.FAILED).reason == Reason.DEADLINE_EXCEEDED
    assert [step for step, _ in story(status)] == [Step.PREPARE, Step.TRAIN]
    assert_books_closed(installation, kubelet, uid)
