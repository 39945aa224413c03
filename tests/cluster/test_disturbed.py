"""Training that is disturbed on a real cluster ends as if nothing had happened, and is paid once.

Each story is measured against a job like it that was left alone: the same predictions, logits
within 1e-4; and each record against what the nodes' container runtimes say, to the second.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from finetune_api.phases import ConditionType, Phase, Reason
from finetune_api.report import FailureClass, Step
from finetune_api.status import AttemptStatus, JobStatus
from finetune_api.times import parse_time
from finetune_api.usage import EndEvidence
from finetune_operator.cost.records import latest
from finetune_operator.kube.names import POD_FINALIZER
from harness.helm import NAMESPACE, Values
from harness.objects import Object
from harness.realcluster import (
    Bench,
    container_of,
    get,
    install,
    kubectl,
    operator_pod,
    training_job,
    wait_for_operator,
    wait_until,
    watched_containers,
)
from harness.stories import COMPLETED, condition, story
from harness.training import rank_of, running_processes
from tools.cluster import nodes
from tools.cluster.place import node_named

Containers = Callable[[], dict[str, str]]

PREPARED = (Step.PREPARE, COMPLETED)
TRAINED = (Step.TRAIN, COMPLETED)
EVALUATED = (Step.EVALUATE, COMPLETED)


@pytest.fixture(scope="module")
def containers(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Note the container of every pod, for those that are gone when the books are compared."""
    with watched_containers(bench.namespace, tmp_path_factory.mktemp("pods") / "containers") as ids:
        yield ids


@pytest.fixture(scope="module")
def undisturbed(bench: Bench, containers: Containers) -> Path:
    """Let a job go its way, and return its predictions."""
    uid = bench.apply(training_job("calm"))
    status = bench.wait_over("calm")
    assert status.phase is Phase.COMPLETE, status
    assert story(status) == [PREPARED, TRAINED, EVALUATED]
    assert_books_agree(bench, containers, uid, status)
    return bench.predictions(uid)


def assert_as_undisturbed(bench: Bench, uid: str, status: JobStatus, undisturbed: Path) -> None:
    """Every test row has the same logits, up to the constant that a softmax takes away."""
    assert status.phase is Phase.COMPLETE, status
    ours, theirs = (pq.read_table(path) for path in (bench.predictions(uid), undisturbed))
    assert ours["row_id"].to_pylist() == theirs["row_id"].to_pylist()
    logits = [np.log(np.array(table["probabilities"].to_pylist())) for table in (ours, theirs)]
    assert logits[0].shape[0] > 50
    assert np.abs(logits[0] - logits[1]).max() <= 1e-4


def assert_books_agree(bench: Bench, containers: Containers, uid: str, status: JobStatus) -> None:
    """Each pod was metered once, to the second in which its container exited, and none is kept."""
    lives = {key: life for one in bench.journals.values() for key, life in one.lives().items()}
    ids = containers()
    records = latest(bench.records(uid))
    entries = [entry for record in records for entry in record.spec.entries]
    assert {entry.pod_uid for entry in entries} >= {
        pod["metadata"]["uid"] for step in Step for pod in bench.pods(uid, step)
    }
    for entry in entries:
        life = lives[ids[entry.pod_uid]]
        assert entry.until is not None
        assert life.exited is not None
        assert (entry.end_evidence, entry.confirmed) == (EndEvidence.CONTAINERS_TERMINATED, True)
        assert parse_time(entry.until) == life.exited, entry
        assert entry.started_at is not None
        # The kubelet looks at its clock after the runtime did.
        late = parse_time(entry.started_at) - life.started
        assert timedelta(0) <= late <= timedelta(seconds=1), entry
        assert parse_time(entry.since) <= life.started
        assert entry.fake_gpu == (entry.device != "cpu")
        shares = sum(share.milliseconds for share in entry.classes)
        assert timedelta(milliseconds=shares) == parse_time(entry.until) - parse_time(entry.since)
    assert {record.spec.attempt for record in records} == {row.number for row in status.attempts}
    assert all(record.spec.sealed and record.spec.lost_settled for record in records)
    assert not kept(bench)


def kept(bench: Bench) -> list[str]:
    """Return the pods that the operator still keeps for their record."""
    return [
        pod["metadata"]["name"]
        for pod in get("pods", "-n", bench.namespace)["items"]
        if POD_FINALIZER in pod["metadata"].get("finalizers", [])
    ]


def resumed(row: AttemptStatus) -> int:
    """Return the step at which an attempt took up the work."""
    assert row.marks is not None
    return row.marks.resumed_from_step


def test_pods_that_are_killed_deleted_evicted_and_suspended_cost_no_work_that_was_saved(
    bench: Bench, containers: Containers, undisturbed: Path
) -> None:
    uid = bench.apply(training_job("pods"))

    bench.wait_step("pods", 2, 120)
    kill_rank(bench.process_of(bench.pods(uid, Step.TRAIN, 2)[1]), 1)

    bench.wait_step("pods", 3, 220)
    deleted = bench.pods(uid, Step.TRAIN, 3)[1]["metadata"]["name"]
    kubectl("delete", "pod", deleted, "-n", bench.namespace, "--wait=false")

    bench.wait_step("pods", 4, 320)
    evict(bench, bench.pods(uid, Step.TRAIN, 4)[0]["metadata"]["name"])

    bench.wait_step("pods", 5, 420)
    bench.patch("pods", {"suspend": True})
    suspended = bench.wait("pods", lambda one: one.phase is Phase.SUSPENDED, "suspension")
    assert condition(suspended, ConditionType.SUSPENDED).status == "True"
    wait_until(lambda: not running_pods(bench, uid), "a suspended job to hold no pod")
    bench.patch("pods", {"suspend": False})

    status = bench.wait_over("pods")
    assert [row.step for row in status.attempts] == [
        Step.PREPARE,
        *[Step.TRAIN] * 5,
        Step.EVALUATE,
    ], status.attempts
    killed, removed, evicted, halted, last = status.attempts[1:6]
    assert killed.charged
    assert not any(row.charged for row in (removed, evicted, halted, last))
    assert evicted.reason == FailureClass.PREEMPTED
    # SIGKILL leaves what was saved before; whoever is asked to stop saves first.
    assert killed.marks is not None
    assert 100 <= resumed(removed) == killed.marks.checkpoint_step
    for before, after in ((removed, evicted), (evicted, halted), (halted, last)):
        assert before.marks is not None
        assert resumed(after) == before.marks.last_step
    assert_as_undisturbed(bench, uid, status, undisturbed)
    assert_books_agree(bench, containers, uid, status)


def kill_rank(launcher: int, rank: int) -> None:
    """SIGKILL a rank's process, which is a child of its pod's first process."""
    ranks = [
        pid
        for pid, parent in running_processes().items()
        if parent == launcher and rank_of(pid) == rank
    ]
    (pid,) = ranks
    os.kill(pid, signal.SIGKILL)


def evict(bench: Bench, pod: str) -> None:
    """Ask for an eviction, as a drain or a descheduler does."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": bench.namespace},
    }
    path = f"/api/v1/namespaces/{bench.namespace}/pods/{pod}/eviction"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def running_pods(bench: Bench, uid: str) -> list[str]:
    """Return a job's pods that are not at their end."""
    return [
        pod["metadata"]["name"]
        for step in Step
        for pod in bench.pods(uid, step)
        if pod["status"]["phase"] not in {"Succeeded", "Failed"}
    ]


def test_a_drained_node_and_a_lost_one_move_the_gang_and_what_they_held_is_paid_once(
    bench: Bench, containers: Containers, undisturbed: Path
) -> None:
    uid = bench.apply(training_job("nodes"))

    bench.wait_step("nodes", 2, 120)
    drained = bench.pods(uid, Step.TRAIN, 2)[1]["spec"]["nodeName"]
    kubectl(
        *("drain", drained, "--ignore-daemonsets", "--delete-emptydir-data"),
        *("--force", "--timeout=300s"),
    )
    try:
        bench.wait_step("nodes", 3, 220)
        gang = bench.pods(uid, Step.TRAIN, 3)
        (refuge,) = {pod["spec"]["nodeName"] for pod in gang}
        assert refuge != drained
    finally:
        kubectl("uncordon", drained)

    # It hangs, and comes back with what it ran, which has another gang beside it by then.
    node = node_named(refuge)
    nodes.stop_kubelet(node)
    for pod in gang:
        bench.journals[refuge].pause(container_of(pod))
    try:
        bench.wait_step("nodes", 4, 320)
        assert {pod["spec"]["nodeName"] for pod in bench.pods(uid, Step.TRAIN, 4)} == {drained}
    finally:
        for pod in gang:
            bench.journals[refuge].resume(container_of(pod))
        nodes.restart_kubelet(node)

    status = bench.wait_over("nodes")
    moved, lost, last = status.attempts[1:4]
    assert [row.step for row in status.attempts] == [
        Step.PREPARE,
        *[Step.TRAIN] * 3,
        Step.EVALUATE,
    ], status.attempts
    assert not any(row.charged for row in status.attempts)
    assert moved.reason == FailureClass.PREEMPTED
    assert lost.reason == FailureClass.NODE_FAULT
    assert moved.marks is not None
    assert resumed(lost) == moved.marks.last_step
    assert resumed(last) >= resumed(lost)
    assert_as_undisturbed(bench, uid, status, undisturbed)
    wait_until(lambda: not kept(bench), "what the lost node's pods tell to be recorded")
    silence, *_, truth = sorted(
        (record for record in bench.records(uid) if record.spec.attempt == 3),
        key=lambda record: record.spec.revision,
    )
    assert all(entry.end_evidence is EndEvidence.NODE_GONE for entry in silence.spec.entries)
    assert truth.spec.revision >= 1
    assert_books_agree(bench, containers, uid, status)


def test_an_operator_that_is_killed_hung_upgraded_and_deleted_is_missed_by_no_job(
    bench: Bench, containers: Containers, undisturbed: Path, installed: Values
) -> None:
    uid = bench.apply(training_job("operator"))
    bench.wait("operator", lambda one: one.phase is Phase.PREPARING, "the first step")
    os.kill(bench.process_of(operator_pod()), signal.SIGKILL)
    wait_for_operator()

    bench.wait_step("operator", 2, 50)
    gang = [pod["metadata"]["uid"] for pod in bench.pods(uid, Step.TRAIN)]
    before = operator_pod()["metadata"]["name"]
    install({**installed, "operator": {**installed["operator"], "logLevel": "DEBUG"}})
    assert operator_pod()["metadata"]["name"] != before

    # It hangs until the kubelet ends it; by then the training is over, and nobody looked.
    bench.wait_step("operator", 2, 100)
    hung = operator_pod()
    os.kill(bench.process_of(hung), signal.SIGSTOP)
    wait_until(
        lambda: restart_count(operator_pod()) > restart_count(hung),
        "the kubelet to end a hung operator",
    )
    wait_for_operator()

    def evaluates(status: JobStatus) -> bool:
        return status.phase is Phase.EVALUATING

    bench.wait("operator", evaluates, "the last step")
    kubectl(
        *("delete", "pod", operator_pod()["metadata"]["name"], "-n", NAMESPACE),
        *("--grace-period=0", "--force"),
    )
    wait_for_operator()

    status = bench.wait_over("operator")
    assert story(status) == [PREPARED, TRAINED, EVALUATED]
    assert [pod["metadata"]["uid"] for pod in bench.pods(uid, Step.TRAIN)] == gang
    assert condition(status, ConditionType.COMPLETE).reason == Reason.EXPORTED
    assert_as_undisturbed(bench, uid, status, undisturbed)
    assert_books_agree(bench, containers, uid, status)


def restart_count(pod: Object) -> int:
    """How often the kubelet has started a pod's container again."""
    (status,) = pod["status"]["containerStatuses"]
    return int(status["restartCount"])
