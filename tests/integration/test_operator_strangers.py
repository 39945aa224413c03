"""What others put beside a job, or onto it, changes nothing of it: no look and no process ends."""

from __future__ import annotations

from finetune_api.phases import Phase
from harness.installation import Installation, a_job
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Script
from harness.objects import Object
from harness.stories import until_training

OURS = {"app.kubernetes.io/managed-by": "finetune-operator"}
SLOWLY = Script(step_seconds=0.3)


def strangers(uid: str) -> list[Object]:
    """Metadata of pods that carry some of our labels, such as a copy of a trainer pod would."""
    return [
        {"labels": OURS, "finalizers": ["finetune.dev/metered"]},
        {"labels": {**OURS, "finetune.dev/job-uid": uid}},
        {
            "labels": {
                **OURS,
                "finetune.dev/job-uid": uid,
                "finetune.dev/job-name": "reviews",
                "finetune.dev/step": "juggle",
                "finetune.dev/attempt": "two",
            },
            "annotations": {"batch.kubernetes.io/job-completion-index": "-"},
            "finalizers": ["finetune.dev/metered"],
        },
        {
            "labels": OURS,
            "annotations": {"finetune.dev/released-at": "2099-01-01T00:00:00Z"},
        },
        {"labels": OURS, "annotations": {"finetune.dev/released-at": "once"}},
    ]


def put(installation: Installation, name: str, metadata: Object) -> None:
    pod = {
        "metadata": {"name": name, **metadata},
        "spec": {
            # Nothing binds it: it only stands there.
            "schedulingGates": [{"name": "example.com/never"}],
            "containers": [
                {
                    "name": "pause",
                    "image": "pause",
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }
            ],
        },
    }
    path = f"/api/v1/namespaces/{installation.namespace}/pods"
    made = installation.cluster.request("POST", path, pod)
    assert made.status == 201, made.message


def test_pods_that_only_look_like_ours_end_no_look_and_no_operator(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.play(installation.namespace, SLOWLY)
    with installation.operator(FINETUNE_RESYNC_SECONDS="1", kept=False) as operator:
        uid = installation.apply(a_job())
        for number, metadata in enumerate(strangers(uid)):
            put(installation, f"stranger-{number}", metadata)
        until_training(installation)
        assert installation.wait_over("reviews").phase is Phase.COMPLETE
        pods = installation.children("v1 pods")
        assert operator.is_running
    left = [pod for pod in pods if pod["metadata"]["name"].startswith("stranger")]
    assert len(left) == len(strangers(uid))
    assert not any("deletionTimestamp" in pod["metadata"] for pod in left)
    for pod in left:
        path = f"/api/v1/namespaces/{installation.namespace}/pods/{pod['metadata']['name']}"
        installation.cluster.request(
            "PATCH",
            path,
            {"metadata": {"finalizers": None}},
            content_type="application/merge-patch+json",
        )
