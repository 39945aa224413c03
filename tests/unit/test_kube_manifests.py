"""What the operator makes on a cluster, as plain data: the objects of one job, rule by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_api.digests import run_digest
from finetune_api.output import CREDENTIAL_VARIABLES
from finetune_api.report import Step
from finetune_api.run import Env, Run
from finetune_operator.kube.manifests.claim import workspace_claim
from finetune_operator.kube.manifests.network import headless_service, network_policy
from finetune_operator.kube.manifests.run import report_config_map, run_config_map
from harness.gangobjects import IMAGE, TRAINER, UID, a_gang

SCRATCH = "/tmp"  # noqa: S108 - in a pod
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - in a pod


def test_the_job_of_a_gang_is_this() -> None:
    gang = a_gang(
        attempt=3,
        compute={
            "workers": 2,
            "gpusPerWorker": 4,
            "gpuType": "H100",
            "cpu": "16",
            "memory": "64Gi",
            "nodeSelector": {"zone": "a"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        },
        storage={"claim": "work"},
    )
    labels = {
        "app.kubernetes.io/managed-by": "finetune-operator",
        "finetune.dev/job-uid": UID,
        "finetune.dev/job-name": "reviews",
        "finetune.dev/step": "train",
        "finetune.dev/attempt": "3",
    }
    annotations = {"finetune.dev/run-digest": run_digest(gang.action.run)}
    resources = {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "4"}
    assert gang.batch_job() == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "reviews-5f3a9c-train-3",
            "namespace": "team",
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [
                {
                    "apiVersion": "finetune.dev/v1alpha1",
                    "kind": "FineTuneJob",
                    "name": "reviews",
                    "uid": UID,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": 2,
            "parallelism": 2,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": labels,
                    "annotations": annotations,
                    "finalizers": ["finetune.dev/metered"],
                },
                "spec": {
                    "schedulingGates": [{"name": "finetune.dev/gang"}],
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 120,
                    "subdomain": "reviews-5f3a9c",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "runAsGroup": 10001,
                        "fsGroup": 10001,
                        "fsGroupChangePolicy": "OnRootMismatch",
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "trainer",
                            "image": IMAGE,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["finetune-trainer", "train"],
                            "env": gang.container()["env"],
                            "ports": [
                                {"name": "progress", "containerPort": 8471, "protocol": "TCP"}
                            ],
                            "resources": {"requests": resources, "limits": resources},
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                                "readOnlyRootFilesystem": True,
                            },
                            "terminationMessagePath": "/dev/termination-log",
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "volumeMounts": [
                                {"name": "workspace", "mountPath": "/workspace", "subPath": UID},
                                {
                                    "name": "source-0",
                                    "mountPath": "/claims/models",
                                    "readOnly": True,
                                },
                                {"name": "run", "mountPath": "/etc/finetune", "readOnly": True},
                                {"name": "scratch", "mountPath": SCRATCH},
                                {"name": "shared-memory", "mountPath": SHARED_MEMORY},
                            ],
                        }
                    ],
                    "volumes": [
                        {"name": "workspace", "persistentVolumeClaim": {"claimName": "work"}},
                        {
                            "name": "source-0",
                            "persistentVolumeClaim": {"claimName": "models", "readOnly": True},
                        },
                        {"name": "run", "configMap": {"name": "reviews-5f3a9c-train-3"}},
                        {"name": "scratch", "emptyDir": {}},
                        {
                            "name": "shared-memory",
                            "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"},
                        },
                    ],
                    "nodeSelector": {"zone": "a", "nvidia.com/gpu.product": "H100"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                },
            },
        },
    }


def test_a_pod_is_told_who_it_is_and_where_everything_lies() -> None:
    gang = a_gang(attempt=3, compute={"cpu": "16", "gpusPerWorker": 4})
    assert gang.variables() == {
        "FINETUNE_RUN_FILE": "/etc/finetune/run.json",
        "FINETUNE_WORKSPACE": "/workspace",
        "FINETUNE_CLAIMS": "/claims",
        "FINETUNE_MASTER_ADDR": "reviews-5f3a9c-train-3-0.reviews-5f3a9c",
        "FINETUNE_MASTER_PORT": "29500",
        "FINETUNE_LISTEN": "0.0.0.0:8471",
        "FINETUNE_TERMINATION_LOG": "/dev/termination-log",
        "FINETUNE_GRACE_SECONDS": "120",
        "FINETUNE_REPORT_SECONDS": "60",
        "FINETUNE_COLLECTIVE_SECONDS": "900",
        "FINETUNE_ATTEMPT": "metadata.annotations['finetune.dev/attempt']",
        "FINETUNE_WORKER": "metadata.annotations['batch.kubernetes.io/job-completion-index']",
        "FINETUNE_POD_UID": "metadata.uid",
        "HOME": SCRATCH,
        "USER": "finetune",
        "OMP_NUM_THREADS": "4",
        "PYTHONUNBUFFERED": "1",
    }


def test_every_variable_of_the_contract_is_set_but_the_one_of_local_runs() -> None:
    ours = {name for name in a_gang().variables() if name.startswith("FINETUNE_")}
    assert ours == {str(name) for name in Env} - {Env.BASE, Env.FAKE_GPUS}


@pytest.mark.parametrize(
    ("cpu", "gpus", "threads"),
    [("2", 0, "2"), ("500m", 0, "1"), ("7.5", 2, "3"), ("2", 4, "1"), ("16", 4, "4")],
)
def test_a_rank_computes_with_its_share_of_the_pods_cores(
    cpu: str, gpus: int, threads: str
) -> None:
    gang = a_gang(compute={"cpu": cpu, "gpusPerWorker": gpus})
    assert gang.variables()["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("step", "per_worker", "asked"),
    [
        (Step.PREPARE, 4, None),
        (Step.TRAIN, 4, "4"),
        (Step.EVALUATE, 4, "1"),
        (Step.TRAIN, 0, None),
        (Step.EVALUATE, 0, None),
    ],
)
def test_a_pod_holds_the_accelerators_that_its_step_uses(
    step: Step, per_worker: int, asked: str | None
) -> None:
    gang = a_gang(step, compute={"gpusPerWorker": per_worker, "gpuType": "H100"})
    resources = gang.container()["resources"]
    assert resources["limits"].get("nvidia.com/gpu") == asked
    assert resources["requests"] == resources["limits"]
    selected = gang.pod().get("nodeSelector")
    assert selected == ({"nvidia.com/gpu.product": "H100"} if asked else None)


@pytest.mark.parametrize(
    ("step", "gpus", "marked"),
    [(Step.TRAIN, 2, True), (Step.PREPARE, 2, False), (Step.TRAIN, 0, False)],
)
def test_a_pod_with_fake_accelerators_asks_for_them_and_says_so(
    step: Step, gpus: int, *, marked: bool
) -> None:
    gang = a_gang(step, compute={"gpusPerWorker": gpus})
    fake = replace(TRAINER, fake_gpus=True)
    assert gang.variables(fake)[Env.FAKE_GPUS] == "true"
    assert gang.container(fake)["resources"] == gang.container()["resources"]
    template = gang.batch_job(fake)["spec"]["template"]
    assert ("finetune.dev/fake-gpus" in template["metadata"]["annotations"]) == marked
    assert "finetune.dev/fake-gpus" not in gang.batch_job()["metadata"]["annotations"]


@pytest.mark.parametrize(("step", "pods"), [(Step.PREPARE, 1), (Step.TRAIN, 3), (Step.EVALUATE, 1)])
def test_only_training_takes_the_whole_gang(step: Step, pods: int) -> None:
    spec = a_gang(step, compute={"workers": 3}, training={"globalBatchSize": 30}).batch_job()[
        "spec"
    ]
    assert spec["completions"] == spec["parallelism"] == pods


@pytest.mark.parametrize(
    ("step", "sources"),
    [
        (Step.PREPARE, ["/claims/models", "/claims/data", "/claims/held-out"]),
        (Step.TRAIN, ["/claims/models"]),
        (Step.EVALUATE, ["/claims/models"]),
    ],
)
def test_rows_are_mounted_where_they_are_read(step: Step, sources: list[str]) -> None:
    dataset = {"train": "pvc://data/rows.csv", "test": "pvc://held-out/rows.csv"}
    mounts = a_gang(step, dataset=dataset).container()["volumeMounts"]
    paths = [it["mountPath"] for it in mounts if it["mountPath"].startswith("/claims/")]
    assert paths == sources


def test_what_is_fetched_is_not_mounted() -> None:
    gang = a_gang(Step.PREPARE, dataset={"train": "s3://bucket/rows.csv"})
    assert [it["name"] for it in gang.pod()["volumes"]] == [
        "workspace",
        "source-0",
        "run",
        "scratch",
        "shared-memory",
    ]


def test_a_source_on_the_workspaces_claim_is_still_read_only() -> None:
    gang = a_gang(storage={"claim": "models"})
    workspace, source = gang.container()["volumeMounts"][:2]
    assert workspace == {"name": "workspace", "mountPath": "/workspace", "subPath": UID}
    assert source == {"name": "workspace", "mountPath": "/claims/models", "readOnly": True}


@pytest.mark.parametrize("step", list(Step))
def test_a_pod_that_leaves_a_report_says_when_it_is_there(step: Step) -> None:
    probe = a_gang(step).container().get("readinessProbe")
    asked = None if probe is None else probe["httpGet"]
    assert asked == (None if step is Step.TRAIN else {"path": "/report", "port": 8471})
    silent = replace(TRAINER, report_seconds=0)
    assert "readinessProbe" not in a_gang(step).container(silent)


def test_a_job_keeps_the_image_that_it_was_admitted_with() -> None:
    upgraded = replace(TRAINER, image="registry.example/finetune-trainer:2.0")
    assert a_gang().container(upgraded)["image"] == IMAGE
    gang = a_gang()
    before = replace(gang, job=gang.job.model_copy(update={"status": None}))
    assert before.container(upgraded)["image"] == upgraded.image


def test_an_installation_may_give_pods_an_account_and_never_its_token() -> None:
    pod = a_gang().pod(replace(TRAINER, service_account="trainer"))
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("trainer", False)
    assert "serviceAccountName" not in a_gang().pod()


@pytest.mark.parametrize("step", list(Step))
def test_the_run_is_read_as_it_was_decided(step: Step) -> None:
    gang = a_gang(step)
    kept = run_config_map(gang.job, gang.action)
    assert kept["metadata"]["name"] == gang.batch_job()["metadata"]["name"]
    assert Run.model_validate_json(kept["data"]["run.json"]) == gang.action.run


def test_a_report_is_kept_byte_for_byte_and_for_good() -> None:
    content = '{"é": 1,\r\n "b": [ ]}\n'.encode()
    kept = report_config_map(a_gang().job, Step.EVALUATE, 3, content)
    assert kept["metadata"]["name"] == "reviews-5f3a9c-evaluate-3-report"
    assert kept["data"]["report.json"].encode() == content
    assert kept["immutable"] is True


@pytest.mark.parametrize(
    ("storage", "size", "owned"),
    [
        ({}, "20Gi", False),
        ({"size": "100Gi"}, "100Gi", False),
        ({"size": "100Gi", "whenDeleted": "Delete"}, "100Gi", True),
    ],
)
def test_the_work_outlives_its_job_unless_it_is_said_otherwise(
    storage: dict[str, str], size: str, *, owned: bool
) -> None:
    claim = workspace_claim(a_gang(storage=storage).job)
    assert claim is not None
    assert claim["spec"]["resources"] == {"requests": {"storage": size}}
    assert ("ownerReferences" in claim["metadata"]) == owned
    assert claim["metadata"]["labels"]["finetune.dev/job-uid"] == UID


def test_a_claim_that_is_named_is_not_made() -> None:
    assert workspace_claim(a_gang(storage={"claim": "work"}).job) is None


@pytest.mark.parametrize(("workers", "mode"), [(1, "ReadWriteOnce"), (2, "ReadWriteMany")])
def test_several_workers_share_their_claim(workers: int, mode: str) -> None:
    job = a_gang(compute={"workers": workers}, storage={"storageClassName": "fast"}).job
    claim = workspace_claim(job)
    assert claim is not None
    assert claim["spec"]["accessModes"] == [mode]
    assert claim["spec"]["storageClassName"] == "fast"


def test_the_rendezvous_finds_a_pod_before_it_is_ready() -> None:
    gang = a_gang()
    service = headless_service(gang.job)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    host, subdomain = gang.variables()["FINETUNE_MASTER_ADDR"].split(".")
    assert host == f"{gang.batch_job()['metadata']['name']}-0"
    assert subdomain == gang.pod()["subdomain"] == service["metadata"]["name"]
    labels = gang.batch_job()["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_a_pod_is_reached_by_its_own_gang_and_by_the_operators_namespace_alone() -> None:
    policy = network_policy(a_gang().job, TRAINER)["spec"]
    mine = {"finetune.dev/job-uid": UID}
    assert policy["podSelector"] == {"matchLabels": mine}
    assert policy["policyTypes"] == ["Ingress"]
    operator = {"kubernetes.io/metadata.name": "finetune-system"}
    assert policy["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": mine}}]},
        {
            "from": [{"namespaceSelector": {"matchLabels": operator}}],
            "ports": [{"protocol": "TCP", "port": 8471}],
        },
    ]


@pytest.mark.parametrize("step", list(Step))
def test_keys_of_a_secret_reach_the_steps_that_fetch_and_publish_and_no_other_variable_does(
    step: Step,
) -> None:
    gang = a_gang(step=step, credentials={"secretName": "s3-keys"})
    from_secret = {
        one["name"]: one["valueFrom"]["secretKeyRef"]
        for one in gang.container()["env"]
        if "secretKeyRef" in one.get("valueFrom", {})
    }
    if step is Step.TRAIN:
        assert from_secret == {}
        return
    assert from_secret == {
        name: {"name": "s3-keys", "key": name, "optional": True} for name in CREDENTIAL_VARIABLES
    }
    assert all(name.startswith(("AWS_", "GOOGLE_CREDENTIALS", "HF_")) for name in from_secret)


def test_without_a_secret_a_pod_has_nobodys_keys() -> None:
    for step in Step:
        env = a_gang(step=step).container()["env"]
        assert not [one for one in env if "secretKeyRef" in one.get("valueFrom", {})]
