"""`make tools` takes what is given, builds only what is missing, and says what it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness.processes import REPOSITORY


def build(cache: Path, *programs: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tools/build.py with no Go to be found, so that a build is seen by its refusal."""
    without = {"PATH": "/nowhere", "KUBEBUILDER_ASSETS": "", "FINETUNE_TOOLS": str(cache)}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "tools" / "build.py"), *programs],
        env=os.environ | without | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def given(folder: Path, *programs: str) -> str:
    """Make a folder as the envtest convention has it, and return its path."""
    folder.mkdir()
    for name in programs:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return str(folder)


def test_a_given_program_is_taken_and_the_second_run_is_silent_about_it(tmp_path: Path) -> None:
    assets = given(tmp_path / "assets", "etcd", "kubectl")
    first = build(tmp_path / "cache", "etcd", "kubectl", KUBEBUILDER_ASSETS=assets)
    assert first.returncode == 0, first.stdout + first.stderr
    assert (tmp_path / "cache/bin/etcd").resolve() == tmp_path / "assets/etcd"
    assert "etcd: taken from KUBEBUILDER_ASSETS" in first.stdout
    second = build(tmp_path / "cache", "etcd", "kubectl", KUBEBUILDER_ASSETS=assets)
    assert second.returncode == 0
    assert "taken from" not in second.stdout


def test_a_program_no_longer_given_is_built_again(tmp_path: Path) -> None:
    assets = given(tmp_path / "assets", "etcd")
    assert build(tmp_path / "cache", "etcd", KUBEBUILDER_ASSETS=assets).returncode == 0
    after = build(tmp_path / "cache", "etcd")
    assert after.returncode == 1
    assert "etcd must be built and there is no `go`" in after.stdout
    assert not (tmp_path / "cache/bin/etcd").exists()


def test_a_program_missing_from_the_given_folder_is_built(tmp_path: Path) -> None:
    assets = given(tmp_path / "assets", "etcd")
    after = build(tmp_path / "cache", "etcd", "kube-apiserver", KUBEBUILDER_ASSETS=assets)
    assert after.returncode == 1
    assert "kube-apiserver must be built" in after.stdout


def test_an_unknown_program_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    refused = build(tmp_path / "cache", "minikube")
    assert refused.returncode == 2
    assert "no such program: minikube; there are: etcd kube-apiserver" in refused.stderr
