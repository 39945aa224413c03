"""Gangs that want the same accelerators don't get in each other's way."""

from __future__ import annotations

from finetune_api.phases import Phase
from harness.installation import Installation, a_job, held, metered
from harness.kubelet import SimulatedKubelet
from harness.kubeletscript import Script


def test_gangs_that_fit_only_one_after_the_other_all_get_through(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.node("small", gpus=4, gpu_product="L4")
    # All of them come to their training at the same time.
    kubelet.play(installation.namespace, Script(prepare_seconds=6))
    compute = {"workers": 4, "gpusPerWorker": 1, "gpuType": "L4", "cpu": "1", "memory": "1Gi"}
    names = [f"gang-{n}" for n in range(5)]
    with installation.operator():
        for name in names:
            installation.apply(
                a_job(name, compute=compute, policy={"startTimeoutSeconds": 60, "backoffLimit": 0})
            )
        ends = [installation.wait_over(name) for name in names]
    assert [end.phase for end in ends] == [Phase.COMPLETE] * len(names)
    # None was ever given a part of what it needs: no attempt failed for want of a place.
    assert {row.reason for end in ends for row in end.attempts} == {"Completed"}
    assert metered(installation.records()) == held(kubelet, installation.namespace)
