"""Renders and installs the chart with the real Helm, for every tier that needs what it makes.

The roles that the operator runs with in tests come from here and nowhere else.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

import yaml

from harness.controlplane import ControlPlane
from harness.objects import Object
from harness.processes import REPOSITORY, program

CHART = REPOSITORY / "charts" / "finetune-operator"
NAMESPACE = "finetune-system"
RELEASE = "finetune"
OPERATOR = "finetune-operator"
"""Full name of what RELEASE installs, the operator's service account among it."""
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{OPERATOR}"
"""User name of the operator, as the API server knows it."""
KUBE_VERSION = "1.34.0"
"""What a chart is rendered for where there is no API server to ask."""

# As a values file has them: nested mappings, lists, strings and numbers.
Values = Mapping[str, Any]


def helm(
    *arguments: str, values: Values | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run Helm with its own files below .cache; with `check`, a refusal is an AssertionError.

    `values` go in as a values file would, over the chart's own.
    """
    cache = str(REPOSITORY / ".cache" / "helm")
    folders = {f"HELM_{what}_HOME": cache for what in ("CACHE", "CONFIG", "DATA")}
    command = [str(program("helm")), *arguments]
    if values is not None:
        command += ["--values", "-"]
    done = subprocess.run(
        command,
        input=json.dumps(values) if values is not None else "",
        env=os.environ | folders,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or not check, (
        f"helm {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
    )
    return done


def render(
    values: Values | None = None, *, namespace: str = NAMESPACE, release: str = RELEASE
) -> list[Object]:
    """Return the objects that the chart makes of these values, in the order of installation."""
    text = helm(
        *("template", release, str(CHART), "--namespace", namespace),
        *("--kube-version", KUBE_VERSION),
        values=values or {},
    ).stdout
    return [obj for obj in yaml.safe_load_all(text) if obj]


def install(
    plane: ControlPlane,
    values: Values | None = None,
    *,
    namespace: str = NAMESPACE,
    release: str = RELEASE,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Install or upgrade the chart on an API server, and wait for nothing.

    Returns what Helm said, the notes included. An upgrade starts from the chart's own values
    again, not from those of the last time.
    """
    return helm(
        *("upgrade", "--install", release, str(CHART), "--reset-values"),
        *("--namespace", namespace, "--create-namespace"),
        *("--kubeconfig", str(plane.kubeconfig)),
        values=values or {},
        check=check,
    )


def uninstall(plane: ControlPlane, *, namespace: str = NAMESPACE, release: str = RELEASE) -> None:
    """Uninstall the release, and wait for nothing."""
    helm("uninstall", release, "--namespace", namespace, "--kubeconfig", str(plane.kubeconfig))


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Return the objects of that kind."""
    return [obj for obj in objects if obj["kind"] == kind]


def only(objects: list[Object], kind: str) -> Object:
    """Return the one object of that kind."""
    (found,) = of_kind(objects, kind)
    return found
