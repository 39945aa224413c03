"""What people copy from the guides and the examples is a valid manifest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from finetune_operator.cli.main import commands
from harness.processes import REPOSITORY


def snippets(guide: str) -> list[dict[str, Any]]:
    text = (REPOSITORY / guide).read_text()
    fenced = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(it) for it in fenced]


# The first is a whole manifest, all others are parts of a spec like its own.
WHOLE, *PARTS = [*snippets("README.md"), *snippets("docs/concepts.md")]
EXAMPLES = {
    path: yaml.safe_load(path.read_text())["kind"]
    for path in sorted((REPOSITORY / "examples").glob("*/*.yaml"))
}


def of_kind(kind: str) -> list[Path]:
    return [path for path, its in EXAMPLES.items() if its == kind]


def said_of(*files: Path) -> str:
    arguments = [it for file in files for it in ("--filename", str(file))]
    return CliRunner().invoke(commands, ["validate", *arguments]).output


@pytest.mark.parametrize("part", [{}, *PARTS], ids=lambda part: " ".join(part) or "whole")
def test_a_manifest_in_a_guide_is_valid(part: dict[str, Any], tmp_path: Path) -> None:
    manifest = tmp_path / "job.yaml"
    manifest.write_text(yaml.safe_dump({**WHOLE, "spec": {**WHOLE["spec"], **part}}))
    assert said_of(manifest) == "FineTuneJob reviews: valid\n"


@pytest.mark.parametrize("path", of_kind("FineTuneJob"), ids=lambda path: path.parent.name)
def test_an_example_is_valid(path: Path) -> None:
    assert said_of(path).endswith(": valid\n")


@pytest.mark.parametrize("path", of_kind("RateCard"), ids=lambda path: path.parent.name)
def test_an_example_of_prices_is_valid(path: Path) -> None:
    assert said_of(path.parent / "job.yaml", path).endswith(" and 1 rate card(s): valid\n")
