"""Which API server is talked to, and what is said when there is none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from finetune_operator.kube import config
from finetune_operator.kube.config import ConfigurationError, find_connection


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of the test's own: where its kubeconfig would lie."""
    path = tmp_path / "home-kubeconfig"
    monkeypatch.setattr(config, "_HOME_KUBECONFIG", path)
    return path


def write_kubeconfig(path: Path, server: str) -> Path:
    content = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "one", "user": "me"}}],
        "clusters": [{"name": "one", "cluster": {"server": server, "proxy-url": "http://proxy:1"}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
    }
    path.write_text(json.dumps(content))
    return path


async def test_a_kubeconfig_that_is_named_comes_before_the_pods_own_and_the_homes(
    home: Path, tmp_path: Path
) -> None:
    write_kubeconfig(home, "https://home:6443")
    named = write_kubeconfig(tmp_path / "named", "https://named:6443/")
    found = await find_connection({"KUBECONFIG": str(named), "KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert found.server == "https://named:6443"
    assert found.proxy == "http://proxy:1"
    assert await found.authorization() == "Bearer secret"


async def test_without_any_other_the_homes_kubeconfig_is_taken(home: Path) -> None:
    write_kubeconfig(home, "https://home:6443")
    assert (await find_connection({})).server == "https://home:6443"


async def test_without_any_the_error_names_the_three_ways() -> None:
    with pytest.raises(ConfigurationError, match=r"KUBECONFIG.*home-kubeconfig.*pod"):
        await find_connection({})


async def test_in_a_pod_without_a_token_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigurationError, match="service account"):
        await find_connection({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", "just words", "a: [", '{"current-context": "nowhere", "contexts": []}'],
)
async def test_a_kubeconfig_that_cannot_be_used_is_named_in_the_error(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=re.escape(str(path))):
        await find_connection({"KUBECONFIG": str(path)})


async def test_an_authority_that_is_no_certificate_is_an_error_of_the_configuration(
    tmp_path: Path,
) -> None:
    path = write_kubeconfig(tmp_path / "kubeconfig", "https://named:6443")
    authority = tmp_path / "authority"
    authority.write_text("no certificate")
    content = json.loads(path.read_text())
    content["clusters"][0]["cluster"]["certificate-authority"] = str(authority)
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match="certificates for https://named"):
        await find_connection({"KUBECONFIG": str(path)})
