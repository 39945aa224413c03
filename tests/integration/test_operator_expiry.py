"""Jobs that are deleted when their time after the end is over, and those that are not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.phases import Phase
from finetune_api.times import parse_time
from finetune_operator.kube import expiry
from finetune_operator.kube.cache import Cache
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import kubeconfig_connection
from finetune_operator.kube.errors import ConflictError
from finetune_operator.kube.resources import FINETUNE_JOBS
from harness.audit import Asked, asked
from harness.cluster import CUSTOM, Cluster
from harness.installation import Installation, a_job
from harness.kubelet import SimulatedKubelet
from harness.objects import JOB, Object, changed
from harness.stories import CHILDREN, assert_books_closed, events

TTL = 3
POLICY = {"gracePeriodSeconds": 10}
MADE = (*CHILDREN, "v1 persistentvolumeclaims")


def deletions(installation: Installation) -> list[Asked]:
    """What the operator has asked to delete of FineTuneJobs."""
    return [
        it
        for it in asked(installation.cluster.audit_log)
        if (it.user, it.verb, it.resource) == (installation.user, "delete", "finetunejobs")
    ]


def test_a_job_is_deleted_after_its_time_with_what_was_made_for_it_and_its_records_stay(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    before = {kind: len(installation.children(kind)) for kind in MADE}
    with installation.operator():
        uid = installation.apply(
            a_job(
                policy={**POLICY, "ttlSecondsAfterFinished": TTL},
                storage={"size": "1Gi", "whenDeleted": "Delete"},
            )
        )
        status = installation.wait("reviews", lambda status: status.completion_time is not None)
        installation.until(lambda: installation.is_gone("reviews"), "it to be deleted")
        for kind in MADE:
            installation.until(
                lambda kind=kind: len(installation.children(kind)) == before[kind],  # type: ignore[misc]  # a default
                f"{kind} to go",
            )
    assert status.phase is Phase.COMPLETE
    (deletion,) = deletions(installation)
    assert (deletion.name, deletion.code) == ("reviews", 200)
    assert status.completion_time is not None
    assert deletion.at >= parse_time(status.completion_time) + timedelta(seconds=TTL)
    written = [
        it
        for it in asked(installation.cluster.audit_log)
        if (it.user, it.resource) == (installation.user, "usagerecords") and it.code in (200, 201)
        if it.verb in ("create", "update") and it.name.startswith(uid)
    ]
    assert len({it.name for it in written}) == 3
    assert max(it.at for it in written) < deletion.at
    assert_books_closed(installation, kubelet, uid)
    (told,) = events(installation, "TTLExpired")
    assert f"deleted after {TTL} s" in told
    assert "claim that was made for it goes along" in told


def test_a_time_that_is_set_after_the_end_holds_for_the_next_operator_and_a_suspended_job_stays(
    installation: Installation,
) -> None:
    at_once = {"policy": {**POLICY, "ttlSecondsAfterFinished": 0}}
    with installation.operator() as operator:
        waits = installation.apply(a_job("waits", suspend=True, **at_once))
        uid = installation.apply(a_job(policy={**POLICY, "ttlSecondsAfterFinished": 3600}))
        installation.wait("waits", lambda status: status.phase is Phase.SUSPENDED)
        installation.wait_over("reviews")
        operator.kill()
        installation.patch("reviews", at_once)
        operator.start()
        installation.until(lambda: installation.is_gone("reviews"), "it to be deleted")
        assert [it.name for it in deletions(installation)] == ["reviews"]
        assert installation.status("waits").phase is Phase.SUSPENDED
        installation.patch("waits", {"suspend": False})
        installation.until(lambda: installation.is_gone("waits"), "the other one to be deleted")
    assert [len(installation.records(one)) for one in (uid, waits)] == [3, 3]
    assert len(events(installation, "TTLExpired")) == 2


async def test_a_job_whose_time_was_just_changed_and_a_namesake_are_spared(
    cluster: Cluster, namespace: str
) -> None:
    path = f"{CUSTOM}/namespaces/{namespace}/finetunejobs"
    held = changed(JOB, {"metadata.finalizers": ["example.com/other"]})
    made = cluster.request("POST", path, held).body

    def patched(change: Object) -> Object:
        patch = "application/merge-patch+json"
        job: Object = cluster.request("PATCH", f"{path}/reviews", change, content_type=patch).body
        return job

    now = patched({"spec": {"policy": {"ttlSecondsAfterFinished": 3600}}})
    namesake = changed(now, {"metadata.uid": "3f9c1b2e-0000-4000-8000-000000000001"})
    jobs = Cache(FINETUNE_JOBS)
    jobs.put(now)
    async with KubeClient(await kubeconfig_connection(str(cluster.kubeconfig))) as client:
        for stale in (made, namesake):
            with pytest.raises(ConflictError):
                await expiry.delete(client, jobs, stale)
        assert jobs.items() == (now,)
        # It waits for somebody else's finalizer, and is known to be on its way.
        await expiry.delete(client, jobs, now)
        (leaving,) = jobs.items()
        assert "deletionTimestamp" in leaving["metadata"]
        assert leaving["metadata"]["uid"] == made["metadata"]["uid"]
        patched({"metadata": {"finalizers": None}})
        assert cluster.request("GET", f"{path}/reviews").status == 404
        await expiry.delete(client, jobs, leaving)
        assert not jobs.items()
