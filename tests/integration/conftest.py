"""Fixtures of the integration tier: a real API server, shared by the run, and a fresh namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.controlplane import ControlPlane, running_control_plane
from harness.processes import REPOSITORY

CRDS = REPOSITORY / "crds"


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Run etcd and kube-apiserver until the last test is done."""
    with running_control_plane(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    """Give the API server once it serves the custom resources of `crds/`."""
    control_plane.kubectl("apply", "--server-side", "-f", str(CRDS))
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=120s", "-f", str(CRDS))
    return control_plane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """Make a namespace of the test's own, and give its name.

    It stays: without a controller manager a deleted namespace never ends, and
    the whole cluster goes with the run.
    """
    made = control_plane.request(
        "POST",
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"generateName": "test-"}},
    )
    assert made.status == 201, made.message
    return str(made.body["metadata"]["name"])
