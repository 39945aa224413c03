"""What a machine offers to a job: its NVIDIA devices as they may be used, else its processors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_api.report import Step
from finetune_operator.local import machine
from harness.scripted import a_job


@pytest.fixture
def with_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a program in nvidia-smi's place that lists the given products, a line each."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(products: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{products}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    return install


def test_devices_are_named_as_nodes_label_them(with_devices: Callable[[str], None]) -> None:
    with_devices("NVIDIA H200\\nNVIDIA H200\\n")
    facts = machine.facts(a_job(compute={"gpusPerWorker": 2}))
    assert (facts.device, facts.max_ranks) == ("cuda", 2)
    assert {step: place.device for step, place in facts.placements.items()} == dict.fromkeys(
        Step, "NVIDIA-H200"
    )
    assert all(place.local for place in facts.placements.values())


def test_the_smallest_device_says_what_must_fit(
    with_devices: Callable[[str], None], tmp_path: Path
) -> None:
    with_devices("NVIDIA H200\\nNVIDIA H200\\n")
    job = a_job(compute={"gpusPerWorker": 2})
    assert machine.facts(job).device_memory_bytes is None
    program = tmp_path / "nvidia-smi"
    lines = "case $1 in *memory.total) printf '143771\\n81559\\n';; *) printf 'A\\nB\\n';; esac"
    program.write_text(f"#!/bin/sh\n{lines}\n")
    assert machine.facts(job).device_memory_bytes == 81559 << 20
    assert machine.facts(a_job(compute={"gpusPerWorker": 0})).device_memory_bytes is None


def test_a_job_that_asks_for_no_gpu_gets_processors(with_devices: Callable[[str], None]) -> None:
    with_devices("NVIDIA H200\\n")
    facts = machine.facts(a_job(compute={"gpusPerWorker": 0}))
    assert (facts.device, facts.max_ranks) == ("cpu", machine.cores())


@pytest.mark.parametrize(("visible", "count"), [("0", 1), ("3,1", 2), ("", 0), ("-1", 0)])
def test_only_visible_devices_count(
    with_devices: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    with_devices("A\\nA\\nA\\nA\\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(machine.accelerators()) == count


def test_each_pod_sees_devices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [machine.visible_devices(first, 2) for first in (0, 2)] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, 5,3")
    assert [machine.visible_devices(first, 1) for first in range(3)] == ["7", "5", "3"]


def test_a_broken_driver_is_no_device(with_devices: Callable[[str], None], tmp_path: Path) -> None:
    with_devices("")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'no driver' >&2; exit 9\n")
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has devices")
    facts = machine.facts(a_job(compute={"gpusPerWorker": 1}))
    assert (facts.device, facts.max_ranks) == ("cpu", machine.cores())
