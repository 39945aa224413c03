"""Gangs that want the same accelerators don't get in each other's way."""

from __future__ import annotations

from finetune_api.phases import Phase
from finetune_api.report import Step
from harness.installation import Installation, a_job, held, metered
from harness.kubelet import SimulatedKubelet


def test_gangs_that_fit_only_one_after_the_other_all_get_through(
    installation: Installation, kubelet: SimulatedKubelet
) -> None:
    kubelet.node("small", gpus=3, gpu_product="L4")
    compute = {"workers": 2, "gpusPerWorker": 1, "gpuType": "L4", "cpu": "1", "memory": "1Gi"}
    names = [f"gang-{n}" for n in range(4)]
    with installation.operator():
        for name in names:
            installation.apply(a_job(name, compute=compute))
        ends = [installation.wait_over(name) for name in names]
    assert [end.phase for end in ends] == [Phase.COMPLETE] * 4
    # None was ever given half of what it needs: no attempt failed for want of a place.
    assert {row.reason for end in ends for row in end.attempts} == {"Completed"}
    account = kubelet.account(installation.namespace)
    gangs = {(one.name.rsplit("-", 2)[0], one.attempt) for one in account if one.gpus}
    for gang, attempt in gangs:
        own = [one for one in account if one.name.startswith(gang) and one.attempt == attempt]
        workers = 2 if own[0].step is Step.TRAIN else 1
        assert len(own) == workers
    assert metered(installation.records()) == held(kubelet, installation.namespace)
