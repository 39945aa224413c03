"""What an operator leaves behind that is killed, refused, doubled or overtaken: what it would have.

Every story is told on the real API server with pods of the simulated kubelet, whose account the
ledger is compared with.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from finetune_api.phases import Phase
from finetune_api.report import Step
from harness.crowd import Crowd, Point, assert_alike, assert_books_right, children
from harness.faultproxy import Choice, FaultProxy, Strike, Write, running_fault_proxy
from harness.installation import Installation, a_job
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Kill, Script
from harness.objects import Object
from harness.operatorprocess import OperatorProcess
from harness.stories import kept_pods, running, story

FULL = "FINETUNE_FULL_SWEEP"
SIDE_BY_SIDE = 16
QUICK = Script(
    prepare_seconds=0.05,
    evaluate_seconds=0.05,
    init_seconds=0.05,
    step_seconds=0.05,
    save_seconds=0.02,
    teardown_seconds=0.2,
)
RANK_DEATH = Script(**{**vars(QUICK), "faults": (Kill(attempt=2, worker=1, at_step=6),)})


def one_of_many(name: str, *, train: str = "pvc://sources/rows.csv", steps: int = 12) -> Object:
    """A job that waits for no other: gangs that want the same accelerators take turns."""
    return a_job(
        name,
        compute={"workers": 2, "gpusPerWorker": 0, "cpu": "100m", "memory": "1Gi"},
        dataset={"train": train},
        training={"maxSteps": steps, "globalBatchSize": 8},
    )


@dataclass(frozen=True)
class Scene:
    """An installation whose operator talks through a proxy, and its jobs."""

    installation: Installation
    proxy: FaultProxy
    kubelet: SimulatedKubelet
    crowd: Crowd
    kubeconfig: Path

    def operator(
        self, name: str = "operator", *, started: bool = True, identity: str = "", resync: int = 60
    ) -> AbstractContextManager[OperatorProcess]:
        """Run an operator through the proxy that can hold many jobs, some with a report to give."""
        return self.installation.operator(
            kubeconfig=self.kubeconfig,
            name=name,
            started=started,
            FINETUNE_WORKERS="64",
            FINETUNE_REPORT_SECONDS="300",
            FINETUNE_IDENTITY=identity,
            FINETUNE_RESYNC_SECONDS=str(resync),
        )

    def undisturbed(self, steps: int = 12) -> int:
        """Let a job go its way, and return how many writes that takes."""
        self.crowd.apply(one_of_many("calm", steps=steps))
        self.crowd.wait_over()
        writes = self.crowd.written["calm"]
        assert writes, "the proxy has seen nothing"
        return writes

    def assert_all_as_undisturbed(self) -> None:
        """Every job has come to the same as the one that nothing has happened to."""
        assert_alike(self.installation, self.kubelet, self.crowd, like="calm")


@pytest.fixture
def scene(installation: Installation, kubelet: SimulatedKubelet, tmp_path: Path) -> Iterator[Scene]:
    """Put a proxy before the installation's operator."""
    with running_fault_proxy(installation.cluster, tmp_path) as proxy:
        kubelet.play(installation.namespace, QUICK)
        crowd = Crowd(installation, proxy)
        try:
            yield Scene(
                installation=installation,
                proxy=proxy,
                kubelet=kubelet,
                crowd=crowd,
                kubeconfig=proxy.kubeconfig(installation.kubeconfig),
            )
        finally:
            crowd.let_go()


@pytest.mark.parametrize("script", [QUICK, RANK_DEATH], ids=["happy", "rank death"])
def test_an_operator_killed_at_any_write_leaves_what_an_undisturbed_one_does(
    scene: Scene, script: Script
) -> None:
    """Killed at each write of a story: before it and after it by turns.

    With FINETUNE_FULL_SWEEP set in the environment it is killed before and after each, in twice
    the time.
    """
    scene.kubelet.play(scene.installation.namespace, script)
    # The name in the Lease stays, so that no restart has to wait for the Lease to run out.
    with scene.operator(identity="the-one") as operator:
        points = _points(scene.undisturbed())
        names = list(points)
        for start in range(0, len(names), SIDE_BY_SIDE):
            some = names[start : start + SIDE_BY_SIDE]
            _kill_at(scene, operator, {name: points[name] for name in some})
    missed = points.keys() - scene.crowd.struck
    assert len(missed) <= len(points) // 10, missed
    scene.assert_all_as_undisturbed()


def _points(writes: int) -> dict[str, Point]:
    """By the name of a job: at which write of its own the operator is killed."""
    kinds = {"before": Strike.KILL_BEFORE, "after": Strike.KILL_AFTER}
    return {
        f"{word}-{number}": (_is_number(number), strike)
        for number in range(1, writes + 1)
        for turn, (word, strike) in enumerate(kinds.items())
        if os.environ.get(FULL) or (number + turn) % 2
    } | {f"{word}-last": (_lets_the_job_go, strike) for word, strike in kinds.items()}


def _is_number(wanted: int) -> Callable[[Write, int], bool]:
    return lambda _, number: number == wanted


def _lets_the_job_go(write: Write, number: int) -> bool:
    """Whether a write takes our finalizer from a job: its last one, whatever number it has."""
    return number > 1 and write.method == "PATCH" and "/finetunejobs/" in write.path


def _kill_at(scene: Scene, operator: OperatorProcess, points: dict[str, Point]) -> None:
    scene.crowd.meet(points)
    for name in points:
        scene.crowd.apply(one_of_many(name))
    scene.crowd.wait_until_met()
    operator.kill()
    scene.crowd.let_go()
    operator.start()
    scene.crowd.wait_over()


SPOILT = (
    Strike.DROP_REQUEST,
    Strike.DROP_REPLY,
    Strike.CONFLICT,
    Strike.TOO_MANY,
    Strike.FAILED,
    Strike.UNAVAILABLE,
    Strike.DUPLICATE,
)


def test_writes_that_are_refused_or_lost_or_doubled_are_made_up_for(scene: Scene) -> None:
    """Every write is spoilt in each way when it first comes.

    Two jobs share the writes by turns: were a job's every write spoilt, its every look would be,
    and it would wait longer after each.
    """
    scene.kubelet.play(scene.installation.namespace, RANK_DEATH)
    with scene.operator():
        writes = scene.undisturbed()
        strikes = {
            f"{strike.name.lower().replace('_', '-')}-{turn}": (strike, turn)
            for strike in SPOILT
            for turn in (0, 1)
        }
        scene.proxy.plan_each(_once_each(scene.crowd, strikes))
        for name in strikes:
            scene.crowd.apply(one_of_many(name))
        scene.crowd.wait_over()
    struck = Counter(write.strike for write in scene.proxy.writes)
    assert all(struck[strike] > writes // 2 for strike in SPOILT), struck
    scene.assert_all_as_undisturbed()


def _once_each(crowd: Crowd, strikes: Mapping[str, tuple[Strike, int]]) -> Choice:
    seen: dict[str, set[tuple[str, ...]]] = {name: set() for name in strikes}

    def choose(write: Write) -> Strike | None:
        name = crowd.owner(write)
        said = (write.method, write.path, _said(write))
        if name not in seen or said in seen[name]:
            return None
        seen[name].add(said)
        strike, turn = strikes[name]
        return strike if len(seen[name]) % 2 == turn else None

    return choose


def _said(write: Write) -> str:
    """What a write says, without its moments."""
    if isinstance(write.body, list):
        return " ".join(f"{one['op']} {one['path']}" for one in write.body)
    body = write.body or {}
    if "status" in body:
        status = body["status"]
        rows = [(row["number"], row["state"]) for row in status.get("attempts", [])]
        return f"{status['phase']} {rows}"
    if body.get("kind") == "UsageRecord":
        ends = ["until" in entry for entry in body["spec"].get("entries", [])]
        return f"{ends} {body['spec'].get('sealed')} {body['spec'].get('lostSettled')}"
    return write.name


@pytest.mark.parametrize("by_force", [False, True], ids=["in order", "by force"])
def test_a_namesake_inherits_nothing_of_a_job_deleted_at_any_step(
    scene: Scene,
    by_force: bool,  # noqa: FBT001 (what the parameter says is the case)
) -> None:
    """Deleted while no operator runs; in order, or with its finalizer taken away by hand.

    In the second case the old pods still live when the namesake comes.
    """
    crowd, installation = scene.crowd, scene.installation
    elders = {
        "unadmitted": one_of_many("unadmitted", train="pvc://missing/rows.csv"),
        "gated": one_of_many("gated"),
        "training": one_of_many("training", steps=100_000),
        "complete": one_of_many("complete"),
    }
    crowd.meet({"gated": (_lets_the_training_go, Strike.KILL_BEFORE)})
    with scene.operator(identity="the-one", resync=2) as operator:
        for elder in elders.values():
            crowd.apply(elder)
        old = {name: crowd.uid(name) for name in elders}
        installation.wait("unadmitted", lambda status: status.phase is Phase.PENDING)
        installation.wait("training", lambda status: running(status) is not None)
        installation.wait_over("complete")
        crowd.wait_until_met()
        operator.kill()
        crowd.let_go()
        for name in elders:
            installation.delete(name)
            if by_force:
                _take_finalizers(installation, name)
                crowd.apply(one_of_many(name))
        operator.start()
        for name in () if by_force else elders:
            installation.until(partial(installation.is_gone, name), f"{name} to go")
            crowd.apply(one_of_many(name))
        crowd.wait_over()
        installation.until(lambda: _left_of(installation, old) <= LASTING, "the old to go")
        installation.until(lambda: not kept_pods(installation), "the old pods to be let go")
        installation.until(lambda: _all_sealed(installation), "the old records to be sealed")
    for name in elders:
        status = installation.status(name)
        assert story(status) == [
            (Step.PREPARE, "Completed"),
            (Step.TRAIN, "Completed"),
            (Step.EVALUATE, "Completed"),
        ]
        marks = status.attempts[1].marks
        assert marks is not None
        assert marks.resumed_from_step == 0
    steps = {record.spec.job.uid for record in installation.records()}
    assert steps == {*old.values(), *map(crowd.uid, elders)} - {old["unadmitted"]}
    assert_books_right(installation, scene.kubelet)


def test_a_write_that_comes_too_late_does_not_touch_a_namesake(scene: Scene) -> None:
    """A write of each job is on its way while the job goes and another one takes its name."""
    installation, crowd = scene.installation, scene.crowd
    with scene.operator(resync=2):
        writes = scene.undisturbed()
        points = _held_at(range(1, writes, 4))
        crowd.meet(points)
        for name in points:
            crowd.apply(one_of_many(name))
        crowd.wait_until_met()
        old = {name: crowd.uid(name) for name in points}
        for name in points:
            installation.delete(name)
            _take_finalizers(installation, name)
            crowd.apply(one_of_many(name))
        crowd.let_go()
        crowd.wait_over()
        installation.until(lambda: _left_of(installation, old) <= LASTING, "the old to go")
        installation.until(lambda: not kept_pods(installation), "the old pods to be let go")
        installation.until(lambda: _all_sealed(installation), "the old records to be sealed")
    scene.assert_all_as_undisturbed()


def _held_at(numbers: Iterable[int]) -> dict[str, Point]:
    """By the name of a job: which write of its own is held, besides its last one."""
    points: dict[str, Point] = {f"late-{one}": (_is_number(one), Strike.HOLD) for one in numbers}
    return {**points, "late-last": (_lets_the_job_go, Strike.HOLD)}


def _all_sealed(installation: Installation) -> bool:
    records = installation.records()
    return all(record.spec.sealed and record.spec.lost_settled for record in records)


LASTING = {"v1 persistentvolumeclaims", "usagerecords"}
"""What stays of a job that was deleted: its model, and what it has used."""


def _lets_the_training_go(write: Write, _: int) -> bool:
    return "-train-" in write.name and "/pods/" in write.path


def _take_finalizers(installation: Installation, name: str) -> None:
    installation.cluster.request(
        "PATCH",
        installation.path(name),
        {"metadata": {"finalizers": None}},
        content_type="application/merge-patch+json",
    )


def _left_of(installation: Installation, uids: Mapping[str, str]) -> set[str]:
    found = children(installation)
    return {kind for uid in uids.values() for kind in found.get(uid, {})}


def test_a_stale_leader_doubles_nothing_and_ends(scene: Scene) -> None:
    """It is stopped with a write of each job on its way; they arrive when another one leads."""
    installation, crowd = scene.installation, scene.crowd
    with (
        scene.operator("first") as first,
        scene.operator("second", started=False) as second,
    ):
        writes = scene.undisturbed()
        points = _held_at(range(2, writes, 3))
        second.start()
        crowd.meet(points)
        for name in points:
            crowd.apply(one_of_many(name))
        crowd.wait_until_met()
        first.pause()
        installation.until(lambda: _leads(second), "the other one to lead")
        crowd.let_go()
        first.resume()
        assert first.wait() == 1
        crowd.wait_over()
    scene.assert_all_as_undisturbed()


def test_an_operator_that_is_asked_to_end_hands_over_at_once(scene: Scene) -> None:
    installation, crowd = scene.installation, scene.crowd
    with (
        scene.operator("first", identity="first") as first,
        scene.operator("second", identity="second") as second,
    ):
        scene.undisturbed(steps=100)
        crowd.apply(one_of_many("moved", steps=100))
        installation.wait("moved", lambda status: running(status) is not None)
        assert _leads(first)
        assert not _leads(second)
        assert first.terminate() == 0
        assert _holder(installation) in {"", "second"}
        crowd.wait_over()
        assert _leads(second)
    scene.assert_all_as_undisturbed()


def _leads(operator: OperatorProcess) -> bool:
    code, body = operator.get("/readyz")
    leads: bool = code == 200 and json.loads(body)["leading"]
    return leads


def _holder(installation: Installation) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{installation.own}/leases/finetune-operator"
    spec = installation.cluster.request("GET", path).body["spec"]
    return str(spec.get("holderIdentity") or "")
