"""What an operator leaves behind that is killed, refused, doubled or overtaken: what it would have.

Every story is told on the real API server with pods of the simulated kubelet, whose account the
ledger is compared with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.crowd import Crowd, Point, assert_alike
from harness.faultproxy import FaultProxy, Strike, Write, running_fault_proxy
from harness.installation import Installation, a_job
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Kill, Script
from harness.objects import Object
from harness.operatorprocess import OperatorProcess

FULL = "FINETUNE_FULL_SWEEP"
SIDE_BY_SIDE = 16
MANY = {"FINETUNE_WORKERS": "64", "FINETUNE_REPORT_SECONDS": "300"}
"""Settings for jobs that are held at a write, some of them with a report to be fetched."""
QUICK = Script(
    prepare_seconds=0.05,
    evaluate_seconds=0.05,
    init_seconds=0.05,
    step_seconds=0.05,
    save_seconds=0.02,
    teardown_seconds=0.2,
)
RANK_DEATH = Script(**{**vars(QUICK), "faults": (Kill(attempt=2, worker=1, at_step=6),)})


def one_of_many(name: str) -> Object:
    """A job that waits for no other: gangs that want the same accelerators take turns."""
    compute = {"workers": 2, "gpusPerWorker": 0, "cpu": "100m", "memory": "1Gi"}
    return a_job(name, compute=compute)


@dataclass(frozen=True)
class Scene:
    """An installation whose operator talks through a proxy, and its jobs."""

    installation: Installation
    proxy: FaultProxy
    kubelet: SimulatedKubelet
    crowd: Crowd
    kubeconfig: Path

    def undisturbed(self) -> int:
        """Let a job go its way, and return how many writes that takes."""
        self.crowd.apply(one_of_many("calm"))
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
        yield Scene(
            installation=installation,
            proxy=proxy,
            kubelet=kubelet,
            crowd=Crowd(installation, proxy),
            kubeconfig=proxy.kubeconfig(installation.kubeconfig),
        )


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
    with scene.installation.operator(
        kubeconfig=scene.kubeconfig, FINETUNE_IDENTITY="the-one", **MANY
    ) as operator:
        points = _points(scene.undisturbed())
        names = list(points)
        for start in range(0, len(names), SIDE_BY_SIDE):
            some = names[start : start + SIDE_BY_SIDE]
            _kill_at(scene, operator, {name: points[name] for name in some})
    print(
        "COUNT",
        len(points),
        sum(w.strike is not None for w in scene.proxy.writes),
        [
            (w.strike.name, w.method, w.path.split("?")[0].split("/")[-2:])
            for w in scene.proxy.writes
            if w.strike
        ],
    )
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
