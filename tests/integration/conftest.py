"""Fixtures of the integration tier: a real cluster, shared by the run, and a fresh namespace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cluster import Cluster, running_cluster
from harness.installation import Installation, installed, make_claim
from harness.kubelet import SimulatedKubelet, running_kubelet
from harness.scene import Scene, set_scene


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Run a control plane with its controllers and the project's kinds until the last test."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="session")
def kubelet(cluster: Cluster) -> Iterator[SimulatedKubelet]:
    """Run a kubelet with one node of 64 GPUs until the last test."""
    with running_kubelet(cluster) as started:
        started.node("shared", gpus=64)
        yield started


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Make a namespace of the test's own, and clear it of what runs when the test is done."""
    name = cluster.new_namespace()
    yield name
    cluster.clear(name)


@pytest.fixture
def installation(
    cluster: Cluster, kubelet: SimulatedKubelet, namespace: str, tmp_path: Path
) -> Iterator[Installation]:
    """Install the operator's roles for a namespace with the claim that jobs read from."""
    make_claim(cluster, namespace, "sources")
    with installed(cluster, namespace, tmp_path) as made:
        yield made


@pytest.fixture
def scene(installation: Installation, kubelet: SimulatedKubelet, tmp_path: Path) -> Iterator[Scene]:
    """Put a proxy before the installation's operator."""
    with set_scene(installation, kubelet, tmp_path) as made:
        yield made
