"""Every direct dependency is pinned, and stands in docs/dependencies.md with its reason."""

from __future__ import annotations

import re
import tomllib

import pytest

from harness.processes import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
REASONS = (REPOSITORY / "docs" / "dependencies.md").read_text()
# What an image leaves out is as much of a promise as what it brings.
NEVER_IN = {
    "operator": {"torch", "transformers", "deepspeed", "pytest"},
    "trainer": {"kopf", "kubernetes", "common-expression-language", "pytest"},
}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^a-zA-Z0-9-]", it, maxsplit=1)[0].lower() for it in requirements}


def pinned(file: str) -> set[str]:
    text = (REPOSITORY / "constraints" / f"{file}.txt").read_text()
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_dependency_is_pinned_where_it_is_installed(extra: str) -> None:
    wanted = names(PROJECT["dependencies"]) | names(EXTRAS[extra])
    assert wanted <= pinned("dev")
    if extra != "dev":
        assert wanted <= pinned(extra)


@pytest.mark.parametrize("image", NEVER_IN)
def test_an_image_brings_nothing_of_the_other_side(image: str) -> None:
    assert not NEVER_IN[image] & pinned(image)


def test_every_dependency_has_a_reason() -> None:
    for requirements in (PROJECT["dependencies"], *EXTRAS.values()):
        for name in names(requirements):
            assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", REASONS), name


def test_what_has_a_reason_is_a_dependency() -> None:
    packages, _, _ = REASONS.partition("## Programs that the tests start")
    cells = re.findall(r"^\| ([a-z].*?) \|", packages, re.MULTILINE)
    listed = {it for cell in cells for it in cell.split(", ") if " " not in it} - {"package"}
    every = [*PROJECT["dependencies"], *(it for extra in EXTRAS.values() for it in extra)]
    assert len(listed) > 30
    # uv makes the environment itself, from constraints of its own.
    assert listed <= names([*every, *PYPROJECT["build-system"]["requires"], "uv"])
