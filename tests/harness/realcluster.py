"""A real Kubernetes with the chart on it, and what its users do there with kubectl and helm.

Used by `tests/cluster`. The cluster is that of `make cluster-up`; the runtime's journals say what
its nodes really did.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_api.report import Step
from finetune_api.run import LAYOUT
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.names import ATTEMPT_LABEL, STEP_LABEL, TRAINER_PORT
from harness.helm import CHART, NAMESPACE, OPERATOR, RELEASE, Values, helm
from harness.objects import Object
from harness.processes import REPOSITORY, program
from harness.runtimejournal import RuntimeJournal
from tools.cluster.images import OPERATOR as OPERATOR_IMAGE
from tools.cluster.images import TRAINER as TRAINER_IMAGE
from tools.cluster.images import VERSION
from tools.cluster.place import CONTROL_GROUP, HOME, KUBECONFIG, VOLUMES

# Guards against a hang alone: stories take a minute or two.
GIVE_UP_SECONDS = 900
_LOOK_SECONDS = 0.25

EXAMPLE = REPOSITORY / "examples" / "cluster"
IMAGES: Values = {
    "operator": {"image": {"repository": OPERATOR_IMAGE.removesuffix(f":{VERSION}")}},
    "trainer": {"image": {"repository": TRAINER_IMAGE.removesuffix(f":{VERSION}")}},
}


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    """Run kubectl as the cluster's administrator and return what it printed, and how it failed."""
    done = subprocess.run(
        [str(program("kubectl")), f"--kubeconfig={KUBECONFIG}", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, (
        f"kubectl {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
    )
    return done.stdout + (done.stderr if done.returncode != 0 else "")


# JSON of the API server, as a test wants to look at it.
def get(*arguments: str) -> Any:
    """Ask for an object, or a list of them."""
    return json.loads(kubectl("get", *arguments, "--output=json"))


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Return once something holds."""
    give_up = time.monotonic() + GIVE_UP_SECONDS
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(_LOOK_SECONDS)


def load_sources(namespace: str, sources: Path) -> None:
    """Copy a folder into the example's claim, as its README says."""
    inside = ("-n", namespace)
    kubectl("apply", *inside, "-f", str(EXAMPLE / "claim.yaml"), "-f", str(EXAMPLE / "loader.yaml"))
    kubectl("wait", *inside, "--for=condition=Ready", "pod/demo-loader", "--timeout=300s")
    kubectl("cp", f"{sources}/.", f"{namespace}/demo-loader:/demo")
    kubectl("delete", *inside, "pod", "demo-loader", "--grace-period=1")
    assert get("persistentvolumeclaim", "demo", *inside)["status"]["phase"] == "Bound"


def install(values: Values) -> None:
    """Install or upgrade the chart, and return once what it installed is ready."""
    helm(
        *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE),
        *("--create-namespace", "--reset-values", "--wait", "--kubeconfig", str(KUBECONFIG)),
        values=values,
    )


def operator_pod() -> Object:
    """Return the operator's pod that is not about to go."""
    pods = get("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={RELEASE}")["items"]
    (pod,) = [one for one in pods if "deletionTimestamp" not in one["metadata"]]
    return dict(pod)


def wait_for_operator() -> None:
    """Return once the operator is ready again."""
    kubectl("rollout", "status", f"deployment/{OPERATOR}", "-n", NAMESPACE, "--timeout=300s")


def training_job(name: str, steps: int = 800) -> Object:
    """Describe a training of two pods; as it is, it is long enough to be disturbed."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": {
            "task": "text-classification",
            "model": {"uri": "pvc://demo/model"},
            "dataset": {
                "train": "pvc://demo/sentences.csv",
                "columns": {"text": "text", "label": "label", "id": "id"},
            },
            "training": {
                "maxSteps": steps,
                "learningRate": 3.0e-4,
                "globalBatchSize": 16,
                "maxLength": 32,
                "dropout": 0,
                "seed": 5,
            },
            "deepspeed": {"zeroStage": 2},
            "compute": {"workers": 2, "gpusPerWorker": 1, "cpu": "900m", "memory": "3Gi"},
            "storage": {"claim": "demo"},
            "checkpoint": {"everySteps": 100},
            "evaluation": {"gate": [{"name": "learned", "metric": "accuracy", "min": 0.7}]},
            "policy": {"gracePeriodSeconds": 60, "nodeLostTimeoutSeconds": 20},
        },
    }


@dataclass(frozen=True)
class Bench:
    """The namespace of a test's jobs, its claim with their sources, and the nodes' journals."""

    namespace: str
    claim: str
    journals: Mapping[str, RuntimeJournal]
    """By the node's name."""

    def apply(self, job: Object) -> str:
        """Create or change a job as a person does, and return its UID."""
        kubectl("apply", "-n", self.namespace, "-f", "-", stdin=yaml.safe_dump(job))
        return str(self.raw(job["metadata"]["name"])["metadata"]["uid"])

    # JSON of the API server.
    def raw(self, name: str) -> Any:
        """Return a job as the API server has it."""
        return get("finetunejob", name, "-n", self.namespace)

    def patch(self, name: str, spec: Object) -> None:
        """Change a job as `kubectl patch` does."""
        patch = json.dumps({"spec": spec})
        kubectl("patch", "ftj", name, "-n", self.namespace, "--type=merge", f"--patch={patch}")

    def status(self, name: str) -> JobStatus:
        """Return a job's status; empty before the operator has written one."""
        return JobStatus.model_validate(self.raw(name).get("status") or {})

    def jobs(self) -> list[str]:
        """Return the UIDs of all jobs."""
        found = get("finetunejobs", "-n", self.namespace)["items"]
        return [str(job["metadata"]["uid"]) for job in found]

    def wait(self, name: str, wanted: Callable[[JobStatus], bool], what: str) -> JobStatus:
        """Return a job's status once it is as wanted; that it is over by then is an error."""
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while not wanted(status := self.status(name)):
            assert status.completion_time is None, f"over before {what}: {status}"
            assert time.monotonic() < give_up, f"no {what}: {status}"
            time.sleep(_LOOK_SECONDS)
        return status

    def wait_over(self, name: str) -> JobStatus:
        """Return a job's status once it is over and nothing holds it any more."""
        wait_until(lambda: not self.raw(name)["metadata"].get("finalizers"), f"the end of {name}")
        return self.status(name)

    def wait_step(self, name: str, attempt: int, step: int) -> None:
        """Return once the training attempt has made so many steps; its end first is an error."""

        def trains(status: JobStatus) -> bool:
            row = status.attempts[-1] if status.attempts else None
            return row is not None and (row.number, row.state) == (attempt, "Running")

        self.wait(name, trains, f"attempt {attempt} to train")
        uid = str(self.raw(name)["metadata"]["uid"])
        (leader, *_) = self.pods(uid, Step.TRAIN, attempt)
        wait_until(
            lambda: self._step_now(leader) >= step or self.status(name).attempt > attempt,
            f"step {step} in attempt {attempt}",
        )
        status = self.status(name)
        assert status.attempt == attempt, f"over before step {step}: {status.attempts}"

    def _step_now(self, pod: Object) -> int:
        """Ask a training's first pod, through the API server, as any user might."""
        address = f"{pod['metadata']['name']}:{TRAINER_PORT}"
        path = f"/api/v1/namespaces/{self.namespace}/pods/{address}/proxy/progress"
        try:
            return int(json.loads(kubectl("get", "--raw", path, check=False))["step"])
        except json.JSONDecodeError:
            return 0  # not served yet, or no more

    def pods(self, uid: str, step: Step, attempt: int | None = None) -> list[Object]:
        """Return a job's pods of a step, in the order of their workers."""
        wanted = f"{JOB_UID_LABEL}={uid},{STEP_LABEL}={step}"
        if attempt is not None:
            wanted += f",{ATTEMPT_LABEL}={attempt}"
        pods: list[Object] = get("pods", "-n", self.namespace, "-l", wanted)["items"]
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def records(self, uid: str) -> list[UsageRecord]:
        """Return a job's usage records, in the order of its attempts."""
        found = get("usagerecords", "-n", NAMESPACE, "-l", f"{JOB_UID_LABEL}={uid}")["items"]
        records = [UsageRecord.model_validate(one, extra="ignore") for one in found]
        return sorted(records, key=lambda record: record.spec.attempt)

    def folder(self, uid: str) -> Path:
        """Return a job's own folder in the claim, as this machine sees it."""
        claim = get("persistentvolumeclaim", self.claim, "-n", self.namespace)
        return VOLUMES / str(claim["spec"]["volumeName"]) / uid

    def predictions(self, uid: str) -> Path:
        """Return the file of a job's predictions."""
        return self.folder(uid) / LAYOUT.predictions

    def process_of(self, pod: Object) -> int:
        """Process id, on this machine, of a pod's first process."""
        return self.journals[pod["spec"]["nodeName"]].process_of(container_of(pod))


def left_behind() -> list[str]:
    """Return what is on this machine of a cluster that was taken down, its logs aside."""
    networks = subprocess.run(
        ["ip", "netns", "list"], capture_output=True, text=True, check=True
    ).stdout
    groups = Path("/sys/fs/cgroup")
    return [
        *(line for line in networks.splitlines() if line.startswith("finetune-")),
        *map(str, [*groups.glob(CONTROL_GROUP), *groups.glob(f"*/{CONTROL_GROUP}")]),
        *(line for line in Path("/proc/mounts").read_text().splitlines() if str(HOME) in line),
    ]


def container_of(pod: Object) -> str:
    """Return the id of a pod's container, as the runtime knows it."""
    (status,) = pod["status"]["containerStatuses"]
    return str(status["containerID"]).removeprefix("containerd://")


@contextmanager
def watched_containers(namespace: str, path: Path) -> Iterator[Callable[[], dict[str, str]]]:
    """Note the container of every pod of a namespace, until the block ends: pods are deleted.

    Yields what tells the containers' ids by pod UID.
    """
    columns = '{.metadata.uid} {.status.containerStatuses[0].containerID}{"\\n"}'
    command = [
        *(str(program("kubectl")), f"--kubeconfig={KUBECONFIG}", "get", "pods"),
        *("-n", namespace, "--watch", f"--output=jsonpath={columns}"),
    ]

    def noted() -> dict[str, str]:
        lines = (line.split() for line in path.read_text().splitlines())
        return {line[0]: line[1].removeprefix("containerd://") for line in lines if len(line) == 2}

    with path.open("wb") as output:
        watcher = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output)
    try:
        yield noted
        assert watcher.poll() is None, "the watch on pods ended"
    finally:
        watcher.terminate()
        watcher.wait()
