"""A real Prometheus with the scrape configuration of docs/monitoring.md. For the cluster tier."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.helm import NAMESPACE
from harness.processes import REPOSITORY, program, running
from harness.realcluster import kubectl
from tools.cluster.network import listens, namespace_path
from tools.cluster.place import API_PORT, CONTROL, CONTROL_ADDRESS, HOME

GUIDE = REPOSITORY / "docs" / "monitoring.md"
_GIVE_UP_SECONDS = 120
_PORT = 9090
_INSIDE = ("nsenter", f"--net={namespace_path(CONTROL)}", "--")
_ACCOUNT = "prometheus"

# The labels of a series, and its value.
Sample = tuple[dict[str, str], float]


@dataclass(frozen=True)
class Prometheus:
    """A server that scrapes. It lives where pods can be reached, so it is asked from there."""

    def ask(self, path: str) -> Any:
        """Return what it answers, as JSON."""
        get = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
        url = f"http://127.0.0.1:{_PORT}{path}"
        done = subprocess.run(
            [*_INSIDE, sys.executable, "-c", get, url], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def query(self, expression: str) -> list[Sample]:
        """Evaluate an instant query."""
        path = f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        found = self.ask(path)["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in found]

    def names(self) -> set[str]:
        """Return the names of all series that were ever scraped."""
        return set(self.ask("/api/v1/label/__name__/values")["data"])

    def wait(self, expression: str, wanted: Callable[[list[Sample]], bool]) -> list[Sample]:
        """Return what a query gives once it is as wanted."""
        give_up = time.monotonic() + _GIVE_UP_SECONDS
        while not wanted(samples := self.query(expression)):
            assert time.monotonic() < give_up, f"{expression} is still {samples}"
            time.sleep(0.5)
        return samples


def scrape_configs() -> list[Any]:
    """Return the scrape configuration that the guide gives its readers."""
    text = GUIDE.read_text()
    block = re.search(r"```yaml\n(scrape_configs:.*?)```", text, re.DOTALL)
    assert block is not None
    configs: list[Any] = yaml.safe_load(block[1])["scrape_configs"]
    return configs


def documented_series(heading: str, page: Path) -> set[str]:
    """Return the names of series in the table below a heading."""
    text = page.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(finetune_\w+)` \|", text, re.MULTILINE))


@contextmanager
def running_prometheus(folder: Path) -> Iterator[Prometheus]:
    """Let it scrape as the guide says, but often, until the block ends."""
    access = _access()
    configs = scrape_configs()
    for discovery in (found for one in configs for found in one["kubernetes_sd_configs"]):
        discovery.update(access)
    config = folder / "prometheus.yaml"
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": configs})
    )
    command: list[str | Path] = [
        *_INSIDE,
        program("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address=127.0.0.1:{_PORT}",
    ]
    log = folder / "prometheus.log"
    with running(command, log=log, ready=lambda: listens(CONTROL, "127.0.0.1", _PORT)):
        yield Prometheus()


def _access() -> dict[str, Any]:
    """Make an account that may read pods alone; returns how it reaches the API server."""
    kubectl("create", "serviceaccount", _ACCOUNT, "-n", NAMESPACE)
    kubectl("create", "clusterrole", _ACCOUNT, "--verb=get,list,watch", "--resource=pods")
    account = f"--serviceaccount={NAMESPACE}:{_ACCOUNT}"
    kubectl("create", "clusterrolebinding", _ACCOUNT, f"--clusterrole={_ACCOUNT}", account)
    return {
        "api_server": f"https://{CONTROL_ADDRESS}:{API_PORT}",
        "authorization": {"credentials": kubectl("create", "token", _ACCOUNT, "-n", NAMESPACE)},
        "tls_config": {"ca_file": str(HOME / "certificates" / "ca.crt")},
    }
