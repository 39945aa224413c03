"""An operator that talks through a fault proxy, and many jobs like one that nothing happens to."""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.crowd import Crowd, Point, assert_alike
from harness.faultproxy import FaultProxy, Strike, Write, running_fault_proxy
from harness.installation import Installation, a_job
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Kill, Script
from harness.objects import Object
from harness.operatorprocess import OperatorProcess

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
        self,
        name: str = "operator",
        *,
        started: bool = True,
        kept: bool = True,
        identity: str = "",
        resync: int = 60,
        pull_policy: str = "IfNotPresent",
    ) -> AbstractContextManager[OperatorProcess]:
        """Run an operator through the proxy that can hold many jobs, some with a report to give."""
        return self.installation.operator(
            kubeconfig=self.kubeconfig,
            name=name,
            started=started,
            kept=kept,
            FINETUNE_WORKERS="64",
            FINETUNE_REPORT_SECONDS="300",
            FINETUNE_IDENTITY=identity,
            FINETUNE_RESYNC_SECONDS=str(resync),
            FINETUNE_TRAINER_PULL_POLICY=pull_policy,
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
        assert_alike(self.installation, self.kubelet, like="calm")
        self.assert_jobs_only_made()

    def assert_jobs_only_made(self) -> None:
        """Every Job was made once, and never applied or changed (these have no deadline).

        A job that somebody took away by force, with our finalizer, is not looked at.
        """
        writes = [
            write
            for write in self.proxy.writes
            if "/batch/v1/" in write.path and write.name.startswith(self.crowd.families())
        ]
        assert writes
        changed = [write for write in writes if write.method in {"PATCH", "PUT"}]
        assert not changed, changed
        made = Counter(write.name for write in writes if write.code == http.client.CREATED)
        twice = [write for write in writes if made[write.name] > 1]
        assert not twice, twice


@contextmanager
def set_scene(
    installation: Installation, kubelet: SimulatedKubelet, folder: Path
) -> Iterator[Scene]:
    """Put a proxy before an installation's operator; its keys lie in `folder`."""
    with running_fault_proxy(installation.cluster, folder) as proxy:
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


def is_number(wanted: int) -> Callable[[Write, int], bool]:
    """Choose a write by its number among those for its job."""
    return lambda _, number: number == wanted


def is_last(write: Write, number: int) -> bool:
    """Whether a write takes our finalizer from a job: its last one, whatever number it has."""
    return number > 1 and write.method == "PATCH" and "/finetunejobs/" in write.path


def held_at(numbers: Iterable[int]) -> dict[str, Point]:
    """By the name of a job: which write of its own is held, besides its last one."""
    points: dict[str, Point] = {f"late-{one}": (is_number(one), Strike.HOLD) for one in numbers}
    return {**points, "late-last": (is_last, Strike.HOLD)}
