"""Fixtures of the cluster tier: built images on a real Kubernetes of two nodes, the chart on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from harness.helm import NAMESPACE, RELEASE, Values, helm
from harness.processes import REPOSITORY
from harness.realcluster import EXAMPLE, IMAGES, Bench, install, kubectl, left_behind, load_sources
from harness.runtimejournal import RuntimeJournal, running_journal
from harness.tinymodel import write_sentences, write_tiny_model
from tools.cluster import images, lifecycle
from tools.cluster.place import KUBECONFIG, NODES

# What a person reads within seconds a test need not wait a quarter of a minute for.
VALUES: Values = {
    "operator": {**IMAGES["operator"], "controlIntervalSeconds": 2, "leaseSeconds": 5},
    "trainer": {**IMAGES["trainer"], "fakeGpus": True},
}


@pytest.fixture(scope="session")
def machine() -> None:
    """Skip where no cluster can be started."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a cluster of its own needs root on a Debian machine")


@pytest.fixture(scope="session")
def cluster(machine: None) -> Iterator[None]:
    """Start the cluster, or use one that runs and that nothing of ours is on, and leave it so."""
    images.build()
    found = lifecycle.is_up()
    if found:
        assert "finetune.dev" not in kubectl("get", "crds", "--output=name"), (
            "the running cluster has an installation of the chart: `make cluster-down` first"
        )
        assert KUBECONFIG.stat().st_mtime > images.built_at(), (
            "the running cluster has older images: `make cluster-down` first"
        )
    # Twice in a row, both ways: the second time there is nothing to do.
    lifecycle.up()
    lifecycle.up()
    try:
        yield
    finally:
        if found:
            helm("uninstall", RELEASE, "-n", NAMESPACE, "--kubeconfig", str(KUBECONFIG))
            kubectl("delete", "--ignore-not-found", "-f", str(REPOSITORY / "crds"))
        else:
            lifecycle.down()
            lifecycle.down()
            assert left_behind() == []


@pytest.fixture(scope="session")
def installed(cluster: None) -> Values:
    """Install the chart with the built images and the example's rate card; gives its values."""
    install(VALUES)
    kubectl("apply", "-f", str(EXAMPLE / "ratecard.yaml"))
    return VALUES


@pytest.fixture(scope="session")
def journals(
    cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, RuntimeJournal]]:
    """Note what each node's container runtime tells, until the last test is done."""
    folder = tmp_path_factory.mktemp("journals")
    with ExitStack() as listening:
        yield {node.name: listening.enter_context(running_journal(node, folder)) for node in NODES}


@pytest.fixture(scope="session")
def bench(
    installed: Values,
    journals: dict[str, RuntimeJournal],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Bench]:
    """Make a namespace whose claim has a tiny model and rows that it can learn."""
    sources = tmp_path_factory.mktemp("sources")
    write_tiny_model(sources / "model")
    write_sentences(sources / "sentences.csv")
    kubectl("create", "namespace", "stories")
    load_sources("stories", sources)
    yield Bench("stories", "demo", journals)
    kubectl("delete", "namespace", "stories", "--timeout=300s")
