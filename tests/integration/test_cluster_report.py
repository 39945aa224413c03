"""`finetune report NAME`: the page of a job on a cluster, with the rights of whoever asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.report import ExitCode
from finetune_api.tasks import Metric
from harness.installation import Installation, a_job
from harness.stories import a_card

CPU = {"name": "core", "resource": "cpu", "pricePerHour": "0.04"}
MEMORY = {"name": "gibibyte", "resource": "memory", "pricePerHour": "0.005"}
GPU = {"name": "any", "gpuType": "H100", "pricePerHour": "3.60"}


def report(kubeconfig: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does, in a folder."""
    command = [str(Path(sys.executable).with_name("finetune")), "report", *arguments]
    environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def complete(installation: Installation) -> Iterator[Installation]:
    """Let a job go its way, at a price."""
    with a_card(installation.cluster, CPU, MEMORY, GPU), installation.operator():
        installation.apply(a_job())
        installation.wait_over("reviews")
        yield installation


def test_the_page_of_a_job_on_a_cluster_has_its_verdict_its_prices_and_its_attempts(
    complete: Installation, tmp_path: Path
) -> None:
    done = report(
        complete.cluster.kubeconfig, tmp_path, "reviews", "--namespace", complete.namespace
    )
    assert (done.returncode, done.stderr) == (0, "")
    page = tmp_path / "reviews.html"
    assert done.stdout.strip() == str(page)
    text = page.read_text()
    status = complete.status("reviews")
    assert status.evaluation is not None
    for said in (
        "✓ Complete",
        "Confusion matrix",
        "entry “any” of rate card",
        "Every attempt, and what its usage record says of it.",
        f"{status.evaluation.metrics[Metric.ACCURACY].value:.3f}",
    ):
        assert said in text, said


def test_who_may_not_read_the_records_gets_the_page_and_is_told_what_it_lacks(
    complete: Installation, tmp_path: Path
) -> None:
    account = complete.namespace
    complete.cluster.kubectl("create", "serviceaccount", "reader", "-n", account)
    complete.cluster.kubectl(
        *("create", "role", "reader", "-n", account, "--verb=get,list"),
        "--resource=finetunejobs.finetune.dev,configmaps",
    )
    complete.cluster.kubectl(
        *("create", "rolebinding", "reader", "-n", account, "--role=reader"),
        f"--serviceaccount={account}:reader",
    )
    kubeconfig = complete.cluster.kubeconfig_of(account, "reader")
    page = tmp_path / "page.html"
    done = report(kubeconfig, tmp_path, "reviews", "-n", account, "-o", str(page))
    assert done.returncode == 0, done.stderr
    assert "you may not list usagerecords" in done.stderr
    text = page.read_text()
    assert "✓ Complete" in text
    assert "rate card" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nobody", "-n", "default"), ExitCode.USAGE, "no FineTuneJob nobody in namespace default"),
        (("-n", "default"), ExitCode.USAGE, "--namespace goes with a job's name"),
        (("./work", "-o", "page.html"), ExitCode.USAGE, "--output goes with a job on a cluster"),
    ],
)
def test_what_cannot_be_shown_is_one_message_with_the_way_out(
    installation: Installation,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: ExitCode,
    said: str,
) -> None:
    done = report(installation.cluster.kubeconfig, tmp_path, *arguments)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_kubeconfig_that_leads_nowhere_is_one_message(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    done = report(missing, tmp_path, "reviews", "-n", "default")
    assert done.returncode == ExitCode.USAGE
    assert str(missing) in done.stderr
    assert "Traceback" not in done.stderr
