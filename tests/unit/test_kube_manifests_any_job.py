"""What the operator makes on a cluster, as plain data: rules that hold for every legal job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import Step
from finetune_api.schema import Schema
from finetune_operator.cli.rules import violations as broken_rules
from finetune_operator.cli.rules import with_defaults
from finetune_operator.kube.manifests import Manifest
from harness.gangobjects import Gang, a_gang, gang_of_job
from harness.objects import JOB, changed, schema_of
from harness.podsecurity import violations

WRITABLE = {"/workspace", "/tmp", "/dev/shm"}  # noqa: S108 - in a pod
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

names = st.from_regex(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True)
claims = st.sampled_from(["data", "models", "a.b-1", "c" * 253])
uris = st.builds("pvc://{}/{}".format, claims, st.sampled_from(["a", "../up", "a b", "é.csv"]))
urls = st.sampled_from(["https://host/rows.csv", "s3://bucket/rows.csv"])
label_values = st.from_regex(LABEL_VALUE, fullmatch=True)
steps = st.sampled_from(list(Step))
storages = st.one_of(
    st.fixed_dictionaries({"claim": claims}),
    st.fixed_dictionaries(
        {},
        optional={
            "size": st.sampled_from(["1Mi", "500Gi"]),
            "storageClassName": st.just("fast"),
            "whenDeleted": st.sampled_from(["Retain", "Delete"]),
        },
    ),
)
tolerations = st.sampled_from(
    [
        {"operator": "Exists"},
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "value": "a", "effect": "NoExecute", "tolerationSeconds": 30},
    ]
)
computes = st.fixed_dictionaries(
    {},
    optional={
        "workers": st.sampled_from([1, 2, 64]),
        "gpusPerWorker": st.sampled_from([0, 1, 16]),
        "gpuType": label_values.filter(bool),
        "cpu": st.sampled_from(["2", "0.5", "1m", "9999.999"]),
        "memory": st.sampled_from(["1Mi", "9999999Ti"]),
        "nodeSelector": st.dictionaries(
            st.sampled_from(["zone", "kubernetes.io/arch", "nvidia.com/gpu.product"]), label_values
        ),
        "tolerations": st.lists(tolerations, max_size=3),
    },
)
bodies = st.fixed_dictionaries(
    {
        "metadata.name": names,
        "metadata.uid": st.uuids().map(str),
        "metadata.namespace": st.sampled_from(["default", "n" * 63]),
        "spec.model.uri": uris,
        "spec.dataset.train": uris | urls,
        "spec.compute": computes,
        "spec.storage": storages,
        "spec.training.globalBatchSize": st.just(1024),
        "spec.policy.gracePeriodSeconds": st.integers(5, 3600),
    },
    optional={"spec.dataset.test": uris | urls},
).map(lambda changes: changed(JOB, changes))
gangs = st.builds(gang_of_job, bodies, steps, st.sampled_from([1, 42, 9999]))


@given(bodies)
def test_the_jobs_of_these_tests_are_legal(body: dict[str, Any]) -> None:
    schema: Schema = schema_of(body)
    assert list(broken_rules(schema, with_defaults(schema, body), wrong=())) == []


@given(gangs)
def test_nothing_binds_before_its_release_goes_before_its_record_or_starts_again(
    gang: Gang,
) -> None:
    spec = gang.batch_job()["spec"]
    template = spec["template"]
    assert template["spec"]["schedulingGates"] == [{"name": "finetune.dev/gang"}]
    assert template["metadata"]["finalizers"] == ["finetune.dev/metered"]
    assert (spec["backoffLimit"], spec["podReplacementPolicy"]) == (0, "Failed")
    assert template["spec"]["restartPolicy"] == "Never"
    assert "activeDeadlineSeconds" not in spec
    assert not {"ttlSecondsAfterFinished", "podFailurePolicy", "suspend"} & spec.keys()


@given(gangs)
def test_every_pod_complies_with_restricted(gang: Gang) -> None:
    assert violations(gang.pod()) == []


@given(gangs)
def test_nothing_that_a_job_says_changes_what_its_pods_may_do(gang: Gang) -> None:
    usual = a_gang(gang.action.step)
    about_access = ("securityContext", "automountServiceAccountToken", "enableServiceLinks")
    for key in about_access:
        assert gang.pod()[key] == usual.pod()[key]
    assert gang.pod().keys() - usual.pod().keys() <= {"nodeSelector", "tolerations"}
    assert gang.container().keys() == usual.container().keys()
    for key in ("securityContext", "command", "image", "ports"):
        assert gang.container()[key] == usual.container()[key]
    writable = {it["mountPath"] for it in gang.container()["volumeMounts"] if "readOnly" not in it}
    assert writable == WRITABLE


def named(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Every label of an object and of its pods."""
    metadata = [manifest["metadata"]]
    if manifest["kind"] == "Job":
        metadata.append(manifest["spec"]["template"]["metadata"])
    for one in metadata:
        yield from one["labels"].items()


@given(gangs)
def test_every_name_that_a_legal_job_leads_to_is_valid(gang: Gang) -> None:
    for manifest in gang.objects():
        assert DNS_LABEL.fullmatch(manifest["metadata"]["name"])
        assert all(LABEL_VALUE.fullmatch(value) for _, value in named(manifest))
    batch_job, pod = gang.batch_job(), gang.pod()
    last = batch_job["spec"]["completions"] - 1
    assert DNS_LABEL.fullmatch(f"{batch_job['metadata']['name']}-{last}"), "a pod's host name"
    assert DNS_LABEL.fullmatch(pod["subdomain"])
    volumes = [volume["name"] for volume in pod["volumes"]]
    assert len(set(volumes)) == len(volumes)
    assert all(DNS_LABEL.fullmatch(name) for name in volumes)
    mounts = gang.container()["volumeMounts"]
    assert {mount["name"] for mount in mounts} <= set(volumes)
    assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
    assert not any(".." in mount["mountPath"].split("/") for mount in mounts)
    for volume in pod["volumes"]:
        if "persistentVolumeClaim" in volume:
            assert DNS_SUBDOMAIN.fullmatch(volume["persistentVolumeClaim"]["claimName"])


@given(gangs)
def test_a_claim_is_a_volume_once_and_only_the_workspace_is_written(gang: Gang) -> None:
    mounted = [
        it["persistentVolumeClaim"]
        for it in gang.pod()["volumes"]
        if "configMap" not in it and "emptyDir" not in it
    ]
    assert len({it["claimName"] for it in mounted}) == len(mounted)
    assert [it.get("readOnly", False) for it in mounted] == [False, *[True] * (len(mounted) - 1)]


@given(gangs)
def test_everything_but_a_kept_workspace_goes_with_its_job(gang: Gang) -> None:
    uid = gang.job.metadata.uid
    for manifest in gang.objects():
        metadata = manifest["metadata"]
        assert metadata["namespace"] == gang.job.metadata.namespace
        assert metadata["labels"]["finetune.dev/job-uid"] == uid
        if manifest["kind"] == "PersistentVolumeClaim" and "ownerReferences" not in metadata:
            continue
        (owner,) = metadata["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (uid, True)
        assert owner["blockOwnerDeletion"] is False
