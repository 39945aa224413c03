"""What is read out of a pod: when it held devices, where, and how it ended."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_api.ratecard import CapacityType
from finetune_api.report import Marks, Step, Termination
from finetune_api.times import parse_time
from finetune_api.usage import EndEvidence
from finetune_operator.cost.pods import PodView
from finetune_operator.kube.views import pod_view

# Pods and nodes as the API server sends them.
Json = dict[str, Any]

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
LOST = timedelta(seconds=300)


def at(minute: int, second: int = 0) -> str:
    return f"2026-03-02T11:{minute:02d}:{second:02d}Z"


def moment(minute: int, second: int = 0) -> datetime:
    return datetime(2026, 3, 2, 11, minute, second, tzinfo=UTC)


class APod:
    """Builds a pod, one fact at a time."""

    def __init__(self) -> None:
        self.metadata: Json = {
            "name": "reviews-3f9c1b-train-2-1-x",
            "uid": "pod-1",
            "creationTimestamp": at(1),
            "labels": {"finetune.dev/step": "train", "finetune.dev/attempt": "2"},
            "annotations": {"batch.kubernetes.io/job-completion-index": "1"},
        }
        limits = {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu": "4"}
        self.spec: Json = {
            "containers": [{"name": "trainer", "resources": {"limits": limits}}],
            "schedulingGates": [{"name": "finetune.dev/gang"}],
        }
        self.status: Json = {"phase": "Pending", "conditions": []}

    def condition(self, kind: str, status: str = "True", **more: str) -> "APod":
        self.status["conditions"].append({"type": kind, "status": status, **more})
        return self

    def released(self) -> "APod":
        self.spec["schedulingGates"] = []
        self.metadata["annotations"]["finetune.dev/attempt"] = "3"
        self.metadata["annotations"]["finetune.dev/released-at"] = at(2)
        return self

    def bound(self) -> "APod":
        self.released()
        self.spec["nodeName"] = "node-a"
        return self.condition("PodScheduled", lastTransitionTime=at(3))

    def container(self, state: Json) -> "APod":
        self.status["containerStatuses"] = [{"name": "trainer", "state": state}]
        return self

    def running(self) -> "APod":
        self.bound()
        self.status["phase"] = "Running"
        return self.container({"running": {"startedAt": at(4)}})

    def ended(self, code: int, phase: str = "Failed", **terminated: object) -> "APod":
        self.running()
        self.status["phase"] = phase
        state = {"exitCode": code, "startedAt": at(4), "finishedAt": at(9), **terminated}
        return self.container({"terminated": state})

    def deleting(self, when: str) -> "APod":
        self.metadata["deletionTimestamp"] = when
        return self

    def view(self, node: Json | None) -> PodView:
        pod = {"metadata": self.metadata, "spec": self.spec, "status": self.status}
        return pod_view(pod, node, NOW, LOST)


def a_node(ready: str = "True", since: str = at(0), **labels: str) -> Json:
    return {
        "metadata": {"name": "node-a", "labels": {"nvidia.com/gpu.product": "H100", **labels}},
        "spec": {"providerID": "aws:///eu-west-1a/i-1"},
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": ready,
                    "lastTransitionTime": since,
                }
            ]
        },
    }


def test_a_gated_pod_holds_nothing() -> None:
    view = APod().view(None)
    assert (view.released, view.bound_at, view.placement, view.live) == (False, None, None, True)
    assert (view.step, view.attempt, view.worker) == (Step.TRAIN, 2, 1)


def test_the_attempt_is_the_one_that_it_was_released_for() -> None:
    view = APod().released().view(None)
    assert (view.attempt, view.released, view.released_at) == (3, True, moment(2))


def test_it_holds_devices_from_the_moment_of_binding() -> None:
    view = APod().bound().view(a_node())
    assert (view.bound_at, view.started_at, view.live) == (moment(3), None, True)


def test_where_it_is_bound_decides_the_price() -> None:
    labels = {
        "topology.kubernetes.io/region": "eu-west-1",
        "karpenter.sh/capacity-type": "spot",
    }
    placement = APod().bound().view(a_node(**labels)).placement
    assert placement is not None
    assert (placement.node, placement.device, placement.milli_devices) == ("node-a", "H100", 4000)
    assert (placement.provider, placement.region) == ("aws", "eu-west-1")
    assert placement.capacity_type == CapacityType.SPOT
    # An accelerator's price is all-in.
    assert (placement.milli_cores, placement.memory_mebibytes) == (0, 0)
    assert not placement.fake_gpu


def test_a_pod_that_says_that_its_accelerators_are_fake_is_priced_as_such() -> None:
    pod = APod().bound()
    pod.metadata["annotations"]["finetune.dev/fake-gpus"] = "true"
    placement = pod.view(a_node()).placement
    assert placement is not None
    assert placement.fake_gpu


def test_a_pod_without_accelerators_pays_cores_and_memory() -> None:
    pod = APod().bound()
    pod.spec["containers"][0]["resources"] = {"limits": {"cpu": "1500m", "memory": "6Gi"}}
    placement = pod.view(a_node()).placement
    assert placement is not None
    assert (placement.device, placement.milli_devices) == ("cpu", 1000)
    assert (placement.milli_cores, placement.memory_mebibytes) == (1500, 6144)


def test_a_pod_that_runs_is_live_however_it_is_being_deleted() -> None:
    view = APod().running().deleting(at(30)).view(a_node())
    assert (view.live, view.stopping, view.started_at) == (True, True, moment(4))


def test_its_end_is_its_containers_end() -> None:
    view = APod().ended(75).view(a_node())
    assert (view.finished_at, view.exit_code, view.confirmed) == (moment(9), 75, True)
    assert view.end_evidence is EndEvidence.CONTAINERS_TERMINATED


def test_a_phase_alone_is_an_end_by_the_disruption_that_caused_it() -> None:
    pod = APod().running()
    pod.status["phase"] = "Failed"
    pod.condition("DisruptionTarget", reason="DeletionByPodGC", lastTransitionTime=at(20))
    view = pod.view(a_node())
    assert (view.finished_at, view.confirmed) == (moment(20), False)
    assert (view.end_evidence, view.disrupted) == (EndEvidence.DISRUPTION, "DeletionByPodGC")
    assert view.exit_code is None


def test_a_pod_that_never_started_held_its_devices_until_its_phase_was_final() -> None:
    pod = APod().bound().condition("Ready", "False", lastTransitionTime=at(3))
    pod.status["phase"] = "Failed"
    pod.container({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}})
    assert pod.view(a_node()).finished_at == moment(3)
    pod.metadata["managedFields"] = [
        {"time": at(10), "fieldsV1": {"f:metadata": {}}},
        {"subresource": "status", "time": at(2), "fieldsV1": {"f:status": {"f:conditions": {}}}},
        {"subresource": "status", "time": at(7), "fieldsV1": {"f:status": {"f:phase": {}}}},
    ]
    view = pod.view(a_node())
    assert (view.finished_at, view.end_evidence) == (moment(7), EndEvidence.LAST_SEEN)
    assert not view.confirmed


def test_an_end_that_the_kubelet_made_up_has_no_exit_code() -> None:
    view = APod().ended(137, reason="ContainerStatusUnknown", finishedAt=None).view(a_node())
    assert (view.exit_code, view.live, view.confirmed) == (None, False, False)


def test_a_pod_that_is_deleted_before_it_was_bound_never_held_anything() -> None:
    view = APod().released().deleting(at(5)).view(None)
    assert (view.live, view.bound_at, view.exit_code) == (False, None, None)


@pytest.mark.parametrize(
    ("silent_since", "ended"), [(at(56), False), (at(55), True), (at(10), True)]
)
def test_a_lost_node_ends_its_pods_after_the_timeout_from_when_it_was_lost(
    silent_since: str, *, ended: bool
) -> None:
    node = a_node("Unknown", since=silent_since)
    view = APod().running().view(node)
    assert view.live is not ended
    assert not view.confirmed
    if ended:
        assert view.finished_at == parse_time(silent_since)
        assert view.end_evidence is EndEvidence.NODE_GONE
        assert view.silent
    else:
        assert not view.silent


def test_an_end_before_the_binding_is_no_end_before_it_began() -> None:
    view = APod().running().view(a_node("Unknown", since=at(2)))
    assert view.finished_at == view.bound_at


def test_a_node_that_is_gone_took_its_pods_with_it() -> None:
    view = APod().running().view(None)
    assert (view.live, view.confirmed, view.end_evidence) == (False, False, EndEvidence.NODE_GONE)


def test_a_pod_that_is_deleted_by_force_tells_nothing_any_more() -> None:
    node = a_node("Unknown", since=at(10))
    asked = APod().running().deleting(at(11))
    asked.metadata["deletionGracePeriodSeconds"] = 30
    assert asked.view(node).silent
    asked.metadata["deletionGracePeriodSeconds"] = 0
    view = asked.view(node)
    assert (view.live, view.silent, view.end_evidence) == (False, False, EndEvidence.NODE_GONE)
    assert not APod().running().view(None).silent


def test_its_own_message_is_believed_only_if_it_is_its_own() -> None:
    told = Termination(step=Step.TRAIN, attempt=3, worker=1, exit_code=75, marks=Marks(last_step=7))
    own = APod().ended(75, message=told.model_dump_json(by_alias=True)).view(a_node())
    assert own.termination == told
    other = told.model_copy(update={"attempt": 2}).model_dump_json(by_alias=True)
    assert APod().ended(75, message=other).view(a_node()).termination is None


def test_a_log_instead_of_a_message_is_kept_as_its_last_words() -> None:
    view = APod().ended(137, reason="OOMKilled", message="x" * 5000 + "the end").view(a_node())
    assert view.ended_as == "OOMKilled"
    assert view.last_words.endswith("the end")
    assert len(view.last_words) <= 2000


def test_why_it_waits_is_told_in_the_words_of_who_makes_it_wait() -> None:
    pod = APod().released()
    pod.condition("PodScheduled", "False", reason="Unschedulable", message="0/3 nodes")
    assert pod.view(None).waiting == "Unschedulable: 0/3 nodes"
    pulling = APod().bound().container({"waiting": {"reason": "ImagePullBackOff"}})
    assert pulling.view(a_node()).waiting == "ImagePullBackOff"
