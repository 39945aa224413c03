"""The README's path on a cluster, followed as a new user would: from a folder to a page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from finetune_api.phases import Phase
from finetune_api.report import Step
from finetune_api.tasks import Metric
from harness.helm import NAMESPACE, OPERATOR, Values
from harness.processes import REPOSITORY
from harness.realcluster import EXAMPLE, Bench, kubectl, load_sources
from harness.runtimejournal import RuntimeJournal
from harness.stories import COMPLETED, story
from tools.cluster.place import KUBECONFIG

_DEMO = REPOSITORY / "examples" / "demo" / "prepare.py"


@pytest.fixture
def user(installed: Values, journals: dict[str, RuntimeJournal]) -> Iterator[Bench]:
    """Work in a namespace of one's own, and take it away in the end."""
    kubectl("create", "namespace", "reader")
    yield Bench("reader", "demo", journals)
    kubectl("delete", "namespace", "reader", "--timeout=300s")


def test_the_example_goes_from_kubectl_apply_to_a_page_that_says_what_it_cost(
    user: Bench, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, _DEMO, "--workspace", tmp_path], check=True)
    load_sources(user.namespace, tmp_path / "claims" / "demo")
    job = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    uid = user.apply(job)

    user.wait_step("reviews", 2, 1)
    gang = user.pods(uid, Step.TRAIN, 2)
    assert len({pod["status"]["podIP"] for pod in gang}) == 2
    assert {pod["spec"]["nodeName"] for pod in gang} == {"node-a"}
    inside = ("exec", "-n", user.namespace, gang[1]["metadata"]["name"], "--")
    assert kubectl(*inside, "id", "-u").strip() == "10001"
    assert "Read-only file system" in kubectl(*inside, "touch", "/opt/anything", check=False)
    assert "No module named 'kopf'" in kubectl(*inside, "python", "-c", "import kopf", check=False)
    assert not kubectl(*inside, "sh", "-c", "command -v gcc git uv pip || true").strip()
    assert "leading" in kubectl("logs", "-n", NAMESPACE, f"deployment/{OPERATOR}")

    status = user.wait_over("reviews")
    assert status.phase is Phase.COMPLETE, status
    assert [one for one, _ in story(status)] == [Step.PREPARE, Step.TRAIN, Step.EVALUATE]
    assert {reason for _, reason in story(status)} == {COMPLETED}
    assert status.evaluation is not None
    assert status.evaluation.passed
    assert status.cost is not None
    assert status.cost.display.endswith("USD (fake)")
    entries = [entry for record in user.records(uid) for entry in record.spec.entries]
    assert {(entry.device, entry.fake_gpu) for entry in entries} == {
        ("cpu", False),
        ("NVIDIA-H100-80GB-HBM3", True),
    }
    assert all(entry.rate is not None and entry.rate.card == "example" for entry in entries)
    assert (user.folder(uid) / "output" / "model" / "config.json").is_file()

    page = tmp_path / "reviews.html"
    finetune = Path(sys.executable).with_name("finetune")
    subprocess.run(
        [finetune, "report", "reviews", "--namespace", user.namespace, "--output", page],
        env=os.environ | {"KUBECONFIG": str(KUBECONFIG)},
        check=True,
    )
    text = page.read_text()
    assert "every price on this page is one of a fake GPU" in text
    assert "Confusion matrix" in text
    assert "tuned TF-IDF" in text
    assert f"{status.evaluation.metrics[Metric.ACCURACY].value:.3f}" in text
