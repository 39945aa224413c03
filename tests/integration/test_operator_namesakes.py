"""A job that takes the name of a deleted one inherits nothing, and is touched by nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pytest

from finetune_api.report import Step
from harness.crowd import assert_books_right, children
from harness.faultproxy import Strike, Write
from harness.installation import Installation
from harness.scene import RANK_DEATH, Scene, held_at, is_last, one_of_many
from harness.stories import kept_pods, running, story


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
        installation.wait("unadmitted", lambda status: bool(status.conditions))
        installation.wait("training", lambda status: running(status) is not None)
        installation.wait_over("complete")
        crowd.wait_until_met()
        operator.kill()
        crowd.let_go()
        for name in elders:
            installation.delete(name)
            if by_force:
                _take_finalizers(installation, installation.path(name))
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
        points = held_at(range(1, writes, 4))
        crowd.meet(points)
        for name in points:
            crowd.apply(one_of_many(name))
        crowd.wait_until_met()
        old = {name: crowd.uid(name) for name in points}
        for name in points:
            installation.delete(name)
            _take_finalizers(installation, installation.path(name))
            crowd.apply(one_of_many(name))
        crowd.let_go()
        crowd.wait_over()
        installation.until(lambda: _left_of(installation, old) <= LASTING, "the old to go")
        installation.until(lambda: not kept_pods(installation), "the old pods to be let go")
        installation.until(lambda: _all_sealed(installation), "the old records to be sealed")
    late = [write for write in scene.proxy.writes if write.strike is Strike.HOLD]
    to_jobs = [write for write in late if "/finetunejobs/" in write.path]
    assert to_jobs
    assert all(write.code is not None and write.code >= 400 for write in to_jobs), to_jobs
    scene.assert_all_as_undisturbed()


def test_a_late_word_of_a_jobs_end_does_not_hide_its_namesake(scene: Scene) -> None:
    """The write that lets a job go is answered when its namesake is known already."""
    installation, crowd = scene.installation, scene.crowd
    with scene.operator():
        scene.undisturbed()
        crowd.apply(one_of_many("heir", steps=100_000))
        installation.wait("heir", lambda status: running(status) is not None)
        crowd.meet({"heir": (is_last, Strike.HOLD_REPLY)})
        installation.delete("heir")
        crowd.wait_until_met()
        installation.until(partial(installation.is_gone, "heir"), "the job to go")
        crowd.apply(one_of_many("heir"))
        # What is over has been watched, and what came before it too.
        crowd.apply(one_of_many("later"))
        installation.wait_over("later")
        crowd.let_go()
        crowd.wait_over()
    scene.assert_all_as_undisturbed()


def test_a_late_deletion_spares_a_pod_that_has_taken_the_name(scene: Scene) -> None:
    installation, crowd = scene.installation, scene.crowd
    scene.kubelet.play(installation.namespace, RANK_DEATH)
    with scene.operator():
        crowd.meet({"reviews": (_ends_a_pod, Strike.HOLD)})
        crowd.apply(one_of_many("reviews"))
        crowd.wait_until_met()
        (held,) = [write for write in scene.proxy.writes if write.strike is Strike.HOLD]
        path = f"/api/v1/namespaces/{installation.namespace}/pods"
        installation.cluster.request("DELETE", f"{path}/{held.name}?gracePeriodSeconds=0")
        _take_finalizers(installation, f"{path}/{held.name}")
        bystander = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": held.name},
            "spec": {
                "schedulingGates": [{"name": "example.com/waits"}],
                "containers": [{"name": "main", "image": "bystander"}],
            },
        }
        installation.until(
            lambda: installation.cluster.request("POST", path, bystander).status == 201,
            "the name to be free",
        )
        crowd.let_go()
        crowd.wait_over()
    assert held.code == 409
    there = installation.cluster.request("GET", f"{path}/{held.name}").body
    assert "deletionTimestamp" not in there["metadata"]


def _ends_a_pod(write: Write, _: int) -> bool:
    return write.method == "DELETE" and "/pods/" in write.path


def _all_sealed(installation: Installation) -> bool:
    records = installation.records()
    return all(record.spec.sealed and record.spec.lost_settled for record in records)


LASTING = {"v1 persistentvolumeclaims", "usagerecords"}
"""What stays of a job that was deleted: its model, and what it has used."""


def _lets_the_training_go(write: Write, _: int) -> bool:
    return "-train-" in write.name and "/pods/" in write.path


def _take_finalizers(installation: Installation, path: str) -> None:
    installation.cluster.request(
        "PATCH",
        path,
        {"metadata": {"finalizers": None}},
        content_type="application/merge-patch+json",
    )


def _left_of(installation: Installation, uids: Mapping[str, str]) -> set[str]:
    found = children(installation)
    return {kind for uid in uids.values() for kind in found.get(uid, {})}
