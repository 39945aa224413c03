"""Fixtures of the chart tier: an API server that knows nothing of the project before Helm comes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.controlplane import ControlPlane, running_control_plane
from harness.helm import install


@pytest.fixture(scope="session")
def bare_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Run etcd and kube-apiserver until the last test is done.

    Not the integration tier's: Helm takes over no CRD that somebody else applied.
    """
    with running_control_plane(tmp_path_factory.mktemp("chart-plane")) as plane:
        yield plane


@pytest.fixture
def installed(bare_plane: ControlPlane) -> ControlPlane:
    """Give the API server with the chart on it, as its own values have it."""
    install(bare_plane)
    return bare_plane
