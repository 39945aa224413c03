"""No server outlives the test run that started it, whatever ended the run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.controlplane import etcd_healthy, running_etcd
from harness.installation import Installation
from harness.processes import REPOSITORY, ServerFailedError, program, running

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
RUN_OF_ITS_OWN = """
import signal, sys, time
from pathlib import Path
from harness.controlplane import running_etcd

signal.signal(signal.SIGINT, signal.default_int_handler)
with running_etcd(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_with_its_run(tmp_path: Path, ending: signal.Signals) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", RUN_OF_ITS_OWN, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")},
    )
    with run:
        assert run.stdout is not None
        url = run.stdout.readline().strip()
        assert etcd_healthy(url)
        run.send_signal(ending)
        run.wait()
    while etcd_healthy(url):  # it is told at once, and takes its time to end
        time.sleep(0.1)


def test_a_server_ends_when_the_test_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the test"), running_etcd(tmp_path) as url:
        raise RuntimeError("the test")
    assert not etcd_healthy(url)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        command: list[str | Path] = [
            program("etcd"),
            f"--data-dir={tmp_path / 'etcd'}",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            "--listen-peer-urls=http://127.0.0.1:0",
        ]
        with (
            pytest.raises(ServerFailedError, match="address already in use"),
            running(command, log=tmp_path / "etcd.log", ready=lambda: False),
        ):
            pass


def test_an_operator_that_ends_by_itself_is_started_again(installation: Installation) -> None:
    with installation.operator() as operator:
        first = operator.pid
        os.kill(first, signal.SIGKILL)
        installation.until(lambda: operator.pid != first, "another process")
        operator.wait_until_ready()
        operator.kill()
        assert not operator.is_running
