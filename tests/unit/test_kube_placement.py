"""Where a job's pods would be bound, as far as that is certain before: what a price needs."""

from typing import Any

import pytest

from finetune_api.job import FineTuneJob
from finetune_api.ratecard import CapacityType
from finetune_api.report import Step
from finetune_operator.kube.placement import (
    capacity_type,
    expected_placements,
    least_device_memory,
    quantity,
)
from harness.scripted import a_job

# A node as the API server sends it.
Json = dict[str, Any]


def a_node(product: str | None, gpus: int, region: str = "r1", **labels: str) -> Json:
    gpu = {"nvidia.com/gpu.product": product} if product else {}
    return {
        "metadata": {"labels": {"topology.kubernetes.io/region": region, **gpu, **labels}},
        "spec": {"providerID": "gce://p/z/i"},
        "status": {"allocatable": {"nvidia.com/gpu": str(gpus)} if gpus else {}},
    }


def wants(**compute: object) -> FineTuneJob:
    return a_job(compute={"workers": 2, "gpusPerWorker": 2, "cpu": "1500m", **compute})


def test_of_one_product_the_place_is_certain() -> None:
    found = expected_placements(wants(), [a_node("H100", 8), a_node(None, 0)])
    train = found[Step.TRAIN]
    assert (train.device, train.milli_devices) == ("H100", 2000)
    assert (train.provider, train.region) == ("gce", "r1")
    assert found[Step.EVALUATE].milli_devices == 1000


def test_what_the_nodes_don_t_share_is_not_certain() -> None:
    nodes = [a_node("H100", 8, region="r1"), a_node("H100", 8, region="r2")]
    train = expected_placements(wants(), nodes)[Step.TRAIN]
    assert (train.device, train.region) == ("H100", None)


def test_the_manifests_product_stands_also_where_no_node_has_it_yet() -> None:
    found = expected_placements(wants(gpuType="B200"), [a_node("H100", 8)])
    assert (found[Step.TRAIN].device, found[Step.TRAIN].region) == ("B200", None)


def test_a_step_that_no_node_could_take_has_no_place() -> None:
    found = expected_placements(wants(), [a_node("H100", 1), a_node(None, 0)])
    assert set(found) == {Step.PREPARE, Step.EVALUATE}


def test_a_node_that_the_selector_leaves_out_is_not_asked() -> None:
    nodes = [a_node("H100", 8, pool="a"), a_node("A100", 8, pool="b")]
    found = expected_placements(wants(nodeSelector={"pool": "b"}), nodes)
    assert found[Step.TRAIN].device == "A100"


def test_a_step_without_accelerators_pays_its_cores_and_memory() -> None:
    prepare = expected_placements(wants(memory="6Gi"), [])[Step.PREPARE]
    assert (prepare.device, prepare.milli_devices) == ("cpu", 1000)
    assert (prepare.milli_cores, prepare.memory_mebibytes) == (1500, 6144)


@pytest.mark.parametrize(
    ("labels", "meaning"),
    [
        ({"karpenter.sh/capacity-type": "spot"}, CapacityType.SPOT),
        ({"karpenter.sh/capacity-type": "on-demand"}, CapacityType.ON_DEMAND),
        ({"eks.amazonaws.com/capacityType": "SPOT"}, CapacityType.SPOT),
        ({"cloud.google.com/gke-spot": "true"}, CapacityType.SPOT),
        ({"cloud.google.com/gke-spot": "false"}, None),
        ({}, None),
    ],
)
def test_how_a_node_was_bought_is_read_from_the_clouds_labels(
    labels: dict[str, str], meaning: CapacityType | None
) -> None:
    assert capacity_type(labels) is meaning


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", "2"), ("500m", "0.5"), ("8Gi", str(8 * 2**30)), ("1k", "1000"), ("1e3", "1000")],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str, value: str) -> None:
    assert quantity(text) == quantity(value)


def of_memory(mebibytes: str, product: str = "H100", gpus: int = 8) -> Json:
    return a_node(product, gpus, **{"nvidia.com/gpu.memory": mebibytes})


def test_the_smallest_device_that_a_gang_may_get_says_what_must_fit() -> None:
    nodes = [of_memory("81559"), of_memory("40960", "A100"), of_memory("16384", "T4", gpus=1)]
    assert least_device_memory(wants(), nodes) == 40960 << 20
    assert least_device_memory(wants(gpuType="H100"), nodes) == 81559 << 20


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [of_memory("81559"), a_node("H100", 8)],
        [of_memory("80Gi")],
    ],
)
def test_where_a_node_says_nothing_of_its_devices_memory_it_is_not_known(
    nodes: list[Json],
) -> None:
    assert least_device_memory(wants(), nodes) is None


def test_a_job_without_accelerators_has_no_device_memory() -> None:
    assert least_device_memory(wants(gpusPerWorker=0), [of_memory("81559")]) is None
