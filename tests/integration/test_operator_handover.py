"""One operator takes over from another: stale, asked to end, or of an earlier version."""

from __future__ import annotations

import json

from harness.faultproxy import Strike, Write
from harness.installation import Installation
from harness.operatorprocess import OperatorProcess
from harness.scene import Scene, held_at, one_of_many
from harness.stories import running


def test_a_stale_leader_doubles_nothing_and_ends(scene: Scene) -> None:
    """It is stopped with a write of each job on its way; they arrive when another one leads."""
    installation, crowd = scene.installation, scene.crowd
    with (
        scene.operator("first", kept=False) as first,
        scene.operator("second", started=False) as second,
    ):
        writes = scene.undisturbed()
        points = held_at(range(2, writes, 3))
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


def test_an_upgrade_takes_over_the_gang_that_its_forerunner_made(scene: Scene) -> None:
    """The Job is there and its pods are late, so it is asked for again, now with another template.

    A Job's template can't be changed; that of the same run is as good as the new one.
    """
    installation, crowd = scene.installation, scene.crowd
    with scene.operator(identity="the-one") as old:
        scene.undisturbed()
        crowd.meet({"upgraded": (_writes_the_training_run, Strike.HOLD)})
        crowd.apply(one_of_many("upgraded"))
        crowd.wait_until_met()
        quota = _forbid_pods(installation)
        crowd.let_go()
        installation.until(lambda: 201 in _answers(scene), "the Job to be made")
        old.kill()
    with scene.operator(identity="the-one", pull_policy="Never"):
        installation.until(lambda: 409 in _answers(scene), "the Job to be asked for again")
        assert installation.cluster.request("DELETE", quota).status == 200
        crowd.wait_over()
    scene.assert_all_as_undisturbed()


def _writes_the_training_run(write: Write, _: int) -> bool:
    return "-train-" in write.name and "/configmaps/" in write.path


def _answers(scene: Scene) -> set[int | None]:
    """What was answered to those who asked for the Job of the training that is upgraded."""
    wanted = (write for write in scene.proxy.writes if "/batch/v1/" in write.path)
    return {
        write.code
        for write in wanted
        if write.name.startswith("upgraded-") and "-train-" in write.name
    }


def _forbid_pods(installation: Installation) -> str:
    quotas = f"/api/v1/namespaces/{installation.namespace}/resourcequotas"
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"pods": "0"}},
    }
    assert installation.cluster.request("POST", quotas, quota).status == 201
    return f"{quotas}/none"


def _leads(operator: OperatorProcess) -> bool:
    code, body = operator.get("/readyz")
    leads: bool = code == 200 and json.loads(body)["leading"]
    return leads


def _holder(installation: Installation) -> str:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{installation.own}/leases/finetune-operator"
    spec = installation.cluster.request("GET", path).body["spec"]
    return str(spec.get("holderIdentity") or "")
