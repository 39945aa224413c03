"""What `make cluster-up` does when a part of the cluster doesn't start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.processes import REPOSITORY
from harness.realcluster import left_behind
from tools.cluster import lifecycle
from tools.cluster.place import PROGRAMS


def test_a_part_that_does_not_start_is_named_with_its_last_words_and_nothing_is_left(
    machine: None, tmp_path: Path
) -> None:
    if lifecycle.is_up():
        pytest.skip("a cluster runs, and there is one per machine: `make cluster-down` first")
    programs = tmp_path / "tools" / "bin"
    programs.mkdir(parents=True)
    for program in PROGRAMS.iterdir():
        (programs / program.name).symlink_to(program)
    broken = programs / "kube-scheduler"
    broken.unlink()
    broken.write_text("#!/bin/sh\necho 'unknown flag: the moon is full' >&2\nexit 3\n")
    broken.chmod(0o755)
    environment = os.environ | {
        "FINETUNE_TOOLS": str(tmp_path / "tools"),
        "FINETUNE_CLUSTER": str(tmp_path / "cluster"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "tools.cluster", "up"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "kube-scheduler" in done.stdout
    assert "the moon is full" in done.stdout
    assert "Traceback" not in done.stderr
    assert left_behind() == []
    assert (tmp_path / "cluster" / "logs" / "etcd.log").stat().st_size > 0
