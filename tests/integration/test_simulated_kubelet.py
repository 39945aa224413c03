"""The simulated kubelet keeps what a real one promises, on real Jobs, and its account is true."""

from __future__ import annotations

import hashlib
import http.client
import json
from datetime import datetime

import pytest

from finetune_api.report import Progress, Step, Termination
from finetune_api.times import parse_time
from finetune_operator.kube.names import GATE, POD_FINALIZER, TRAINER_PORT
from harness.cluster import Cluster
from harness.clusterclient import Object
from harness.clustergang import HandmadeGang, make_gang, wait_until
from harness.kubelet import SimulatedKubelet
from harness.kubeletaccount import Entry
from harness.kubeletscript import Evict, Hang, IgnoreSigterm, ImagePullFailure, Kill, Script


def condition(pod: Object, kind: str) -> Object:
    return next(it for it in pod["status"]["conditions"] if it["type"] == kind)


def state(pod: Object) -> Object:
    found: Object = pod["status"].get("containerStatuses", [{}])[0].get("state", {})
    return found


def running(gang: HandmadeGang) -> bool:
    return all("running" in state(pod) for pod in gang.pods())


def ended(gang: HandmadeGang) -> bool:
    return all("terminated" in state(pod) for pod in gang.pods())


def told(pod: Object) -> Termination:
    return Termination.model_validate_json(state(pod)["terminated"]["message"])


def exit_codes(gang: HandmadeGang) -> list[int]:
    return [state(pod)["terminated"]["exitCode"] for pod in gang.pods()]


def ask(pod: Object, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(pod["status"]["podIP"], TRAINER_PORT, timeout=30)
    connection.request(method, path)
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, body


def as_the_api_server_has_it(pod: Object) -> tuple[datetime, datetime, datetime]:
    end = state(pod)["terminated"]
    times = (
        condition(pod, "PodScheduled")["lastTransitionTime"],
        end["startedAt"],
        end["finishedAt"],
    )
    bound, started, finished = (parse_time(time) for time in times)
    return bound, started, finished


def test_nothing_is_bound_before_its_gate_is_gone(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace)
    wait_until(lambda: len(gang.pods()) == 2)
    waiting = gang.pods()
    assert [pod["spec"]["schedulingGates"] for pod in waiting] == [[{"name": GATE}]] * 2
    assert not any("nodeName" in pod["spec"] for pod in waiting)
    assert kubelet.account(namespace) == ()


def test_a_gang_trains_to_its_end_and_its_finalizer_keeps_the_pods(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace)
    gang.release()
    wait_until(lambda: "Complete" in gang.conditions())
    gang.stop(grace_seconds=30)
    wait_until(lambda: all("deletionTimestamp" in it["metadata"] for it in gang.pods()))
    kept = gang.pods()
    assert [pod["status"]["phase"] for pod in kept] == ["Succeeded"] * 2
    assert [pod["metadata"]["finalizers"] for pod in kept] == [[POD_FINALIZER]] * 2
    result = told(kept[0]).train
    assert result is not None
    assert (result.steps, result.checkpoint) == (20, "checkpoints/1/20")
    assert told(kept[0]).marks.last_step == 20
    gang.forget()
    wait_until(lambda: gang.pods() == [])


def test_the_account_is_what_the_api_server_says_to_the_second(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace, gpus=3)
    gang.release()
    wait_until(lambda: ended(gang))
    by_uid: dict[str, Entry] = {entry.uid: entry for entry in kubelet.account(namespace)}
    for pod in gang.pods():
        entry = by_uid[pod["metadata"]["uid"]]
        assert (entry.bound, entry.started, entry.finished) == as_the_api_server_has_it(pod)
        assert (entry.gpus, entry.exit_code, entry.attempt) == (3, 0, 1)
        assert entry.gpu_seconds == 3 * entry.seconds


def test_sigterm_saves_and_the_next_attempt_goes_on_from_there(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(namespace, Script(faults=(Hang(attempt=1, at_step=13, worker=1),)))
    first = make_gang(cluster, namespace, attempt=1, steps=1000)
    first.release()
    wait_until(lambda: running(first) and progress_of(first).step == 13)
    first.stop(grace_seconds=60)
    wait_until(lambda: ended(first))
    assert exit_codes(first) == [75, 75]
    assert told(first.pods()[0]).marks.checkpoint_step == 10

    second = make_gang(cluster, namespace, attempt=2, steps=1000)
    second.release()
    wait_until(lambda: running(second) and progress_of(second).step >= 12)
    second.stop(grace_seconds=60)
    wait_until(lambda: ended(second))
    marks = told(second.pods()[0]).marks
    assert (marks.resumed_from_step, marks.resumed_from_attempt) == (10, 1)
    assert marks.checkpoint_step == marks.last_step >= 12


def progress_of(gang: HandmadeGang) -> Progress:
    status, body = ask(gang.pods()[0], "GET", "/progress")
    assert status == 200
    return Progress.model_validate_json(body)


def test_only_worker_0_tells_its_progress_and_names_its_pod(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace, steps=1000)
    gang.release()
    wait_until(lambda: running(gang))
    first, second = gang.pods()
    assert progress_of(gang).pod_uid == first["metadata"]["uid"]
    with pytest.raises(ConnectionRefusedError):
        ask(second, "GET", "/progress")


def test_what_ignores_sigterm_is_killed_when_the_grace_is_over(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(namespace, Script(faults=(IgnoreSigterm(worker=1),)))
    gang = make_gang(cluster, namespace, steps=1000)
    gang.release()
    wait_until(lambda: running(gang))
    gang.stop(grace_seconds=3)
    wait_until(lambda: ended(gang))
    assert exit_codes(gang) == [75, 137]
    assert state(gang.pods()[1])["terminated"]["reason"] == "Error"
    # Their end is reported and their objects deleted for good: but for the finalizer.
    assert len(gang.pods()) == 2
    gang.forget()
    wait_until(lambda: gang.pods() == [])


def test_a_step_that_ignores_sigterm_goes_on_until_it_is_killed(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    fault = IgnoreSigterm(step=Step.PREPARE)
    kubelet.play(namespace, Script(prepare_seconds=3600, faults=(fault,)))
    gang = make_gang(cluster, namespace, Step.PREPARE, workers=1, gpus=0)
    gang.release()
    wait_until(lambda: running(gang))
    gang.stop(grace_seconds=1)
    wait_until(lambda: ended(gang))
    assert exit_codes(gang) == [137]


def test_a_worker_killed_for_its_memory_leaves_its_peer_without_steps(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    fault = Kill(worker=1, at_step=7, reason="OOMKilled", message="last line")
    kubelet.play(namespace, Script(faults=(fault,)))
    gang = make_gang(cluster, namespace)
    gang.release()
    wait_until(lambda: "terminated" in state(gang.pods()[1]))
    peer, victim = gang.pods()
    end = state(victim)["terminated"]
    assert (end["exitCode"], end["reason"], end["message"]) == (137, "OOMKilled", "last line")
    assert victim["status"]["phase"] == "Failed"
    assert condition(victim, "Ready")["status"] == "False"
    # With backoffLimit 0 the Job controller ends the other one by itself.
    wait_until(lambda: ended(gang))
    assert exit_codes(gang)[0] == 70
    assert told(gang.pods()[0]).marks.last_step == 7
    assert peer["metadata"]["uid"] == gang.pods()[0]["metadata"]["uid"]


def test_a_report_makes_its_pod_ready_and_waits_for_its_acknowledgement(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace, Step.PREPARE, workers=1, gpus=0, report_seconds=600)
    gang.release()
    wait_until(lambda: running(gang) and condition(gang.pods()[0], "Ready")["status"] == "True")
    pod = gang.pods()[0]
    status, report = ask(pod, "GET", "/report")
    assert (status, json.loads(report)["version"]) == (200, 1)
    digest = f"sha256:{hashlib.sha256(report).hexdigest()}"
    assert ask(pod, "POST", f"/report/ack?digest=sha256:{'0' * 64}")[0] == 409
    assert running(gang)
    assert ask(pod, "POST", f"/report/ack?digest={digest}")[0] == 204
    wait_until(lambda: ended(gang))
    assert exit_codes(gang) == [0]
    ref = told(gang.pods()[0]).report
    assert ref is not None
    assert ref.digest == digest


def test_an_eviction_marks_its_victim_alone_and_all_save(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(namespace, Script(faults=(Evict(worker=1, at_step=7),)))
    gang = make_gang(cluster, namespace, steps=1000)
    gang.release()
    wait_until(lambda: ended(gang))
    peer, victim = gang.pods()
    assert condition(victim, "DisruptionTarget")["reason"] == "EvictionByEvictionAPI"
    assert "DisruptionTarget" not in {it["type"] for it in peer["status"]["conditions"]}
    assert exit_codes(gang) == [75, 75]


def test_an_eviction_under_pressure_kills_at_once_in_the_kubelets_words(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(namespace, Script(faults=(Evict(worker=0, at_step=3, pressure=True),)))
    gang = make_gang(cluster, namespace)
    gang.release()
    wait_until(lambda: ended(gang))
    victim = gang.pods()[0]
    assert victim["status"]["reason"] == "Evicted"
    assert condition(victim, "DisruptionTarget")["reason"] == "TerminationByKubelet"
    assert exit_codes(gang)[0] == 137


def test_an_image_that_cannot_be_had_leaves_the_pod_waiting_until_it_is_deleted(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(namespace, Script(faults=(ImagePullFailure(worker=0),)))
    gang = make_gang(cluster, namespace, workers=1)
    gang.release()
    wait_until(lambda: waiting_reason(gang) == "ImagePullBackOff")
    assert gang.pods()[0]["status"]["phase"] == "Pending"
    gang.stop(grace_seconds=30)
    wait_until(lambda: ended(gang))
    pod = gang.pods()[0]
    assert pod["status"]["phase"] == "Failed"
    end = state(pod)["terminated"]
    assert (end["reason"], end["exitCode"]) == ("ContainerStatusUnknown", 137)
    assert end["finishedAt"] is None
    (entry,) = kubelet.account(namespace)
    assert entry.started is None
    assert entry.finished is not None


def waiting_reason(gang: HandmadeGang) -> str | None:
    for pod in gang.pods():
        if "waiting" in state(pod):
            return str(state(pod)["waiting"]["reason"])
    return None


def test_a_silent_node_is_declared_lost_and_catches_up_when_it_is_back(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace, workers=1, gpus=1, steps=1000, lost_seconds=0)
    kubelet.node("other")  # where all nodes are silent, the controllers blame the network
    gang.release()
    wait_until(lambda: running(gang))
    node = gang.pods()[0]["spec"]["nodeName"]
    kubelet.silence(node)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(gang.pods()[0], "GET", "/progress")
    wait_until(lambda: "deletionTimestamp" in gang.pods()[0]["metadata"])
    pod = gang.pods()[0]
    assert condition(pod, "DisruptionTarget")["reason"] == "DeletionByTaintManager"
    assert condition(pod, "Ready")["status"] == "False"
    assert "running" in state(pod)
    (entry,) = kubelet.account(namespace)
    assert entry.finished is None, "what runs on a silent node goes on"

    kubelet.restore(node)
    wait_until(lambda: ended(gang))
    assert exit_codes(gang) == [75]
    path = f"/api/v1/nodes/{node}"
    wait_until(lambda: not cluster.request("GET", path).body["spec"].get("taints"))


def test_a_power_cut_ends_everything_and_the_moment_is_nobodys_knowledge(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace, workers=1, steps=1000)
    gang.release()
    wait_until(lambda: running(gang))
    node = gang.pods()[0]["spec"]["nodeName"]
    kubelet.power_off(node)
    wait_until(lambda: kubelet.account(namespace)[0].finished is not None)
    assert "running" in state(gang.pods()[0])
    kubelet.restore(node)
    wait_until(lambda: ended(gang))
    end = state(gang.pods()[0])["terminated"]
    assert (end["exitCode"], end["finishedAt"]) == (255, None)


def test_a_claim_is_given_a_volume(cluster: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "workspace"},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "resources": {"requests": {"storage": "20Gi"}},
        },
    }
    assert cluster.request("POST", path, claim).status == 201
    wait_until(
        lambda: cluster.request("GET", f"{path}/workspace").body["status"]["phase"] == "Bound"
    )


def test_the_audit_log_counts_each_clients_requests_apart(
    cluster: Cluster, namespace: str, kubelet: SimulatedKubelet
) -> None:
    gang = make_gang(cluster, namespace, workers=1)
    gang.release()
    wait_until(lambda: ended(gang))
    by_kubelet = cluster.requests(user="kubelet", namespace=namespace)
    assert by_kubelet["get", "configmaps", ""] == 1
    assert by_kubelet["patch", "pods", "status"] >= 2
    assert ("create", "jobs", "") not in by_kubelet
    by_admin = cluster.requests(user="admin", namespace=namespace)
    assert by_admin["create", "jobs", ""] == 1
    assert (
        cluster.requests(user="system:kube-scheduler", namespace=namespace)[
            "create", "pods", "binding"
        ]
        == 1
    )


def test_a_service_account_has_a_kubeconfig_with_no_more_than_its_rights(
    cluster: Cluster, namespace: str
) -> None:
    kubeconfig = cluster.kubeconfig_of(namespace, "default")
    asked = cluster.kubectl(f"--kubeconfig={kubeconfig}", "auth", "whoami", "-o", "json")
    user = json.loads(asked.stdout)["status"]["userInfo"]["username"]
    assert user == f"system:serviceaccount:{namespace}:default"
    denied = cluster.kubectl(f"--kubeconfig={kubeconfig}", "get", "pods", "-A", check=False)
    assert "forbidden" in denied.stderr
