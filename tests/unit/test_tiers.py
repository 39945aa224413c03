"""A skip fails the run where its tier must run, and nowhere else (tests/tiers.toml)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]

SKIPS = "import pytest\n\ndef test_it() -> None:\n    pytest.skip('no such program')\n"
SKIPS_WHOLE = "import pytest\n\npytest.importorskip('no_such_package')\n"
EXPECTED_TO_FAIL = "import pytest\n\n@pytest.mark.xfail\ndef test_it() -> None:\n    assert False\n"
PASSES = "def test_it() -> None:\n    pass\n"


@pytest.mark.parametrize(
    ("tier", "source", "required", "passes"),
    [
        ("integration", PASSES, "integration", True),
        ("integration", SKIPS, "unit", True),
        ("integration", SKIPS, "unit integration", False),
        ("integration", SKIPS_WHOLE, "unit", True),
        ("integration", SKIPS_WHOLE, "integration", False),
        ("unit", EXPECTED_TO_FAIL, "unit", True),
    ],
)
def test_a_skip_fails_where_its_tier_is_required(
    tmp_path: Path, tier: str, source: str, required: str, *, passes: bool
) -> None:
    done = run_suite(tmp_path, tier, source, {"FINETUNE_REQUIRE_TIERS": required})
    assert (done.returncode == 0) is passes, done.stdout


def test_in_ci_the_list_says_which_tiers_are_required(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "integration", SKIPS, {"CI": "true"})
    assert done.returncode == 1
    assert "integration/test_rule.py::test_it" in done.stdout
    assert "tests/tiers.toml" in done.stdout


def test_on_a_laptop_a_missing_program_skips(tmp_path: Path) -> None:
    done = run_suite(tmp_path, "integration", SKIPS, {"CI": ""})
    assert done.returncode == 0, done.stdout


def run_suite(
    root: Path, tier: str, source: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run pytest on a suite of two files, under this suite's own conftest and list."""
    suite = root / "tests"
    (suite / tier).mkdir(parents=True)
    for name in ("conftest.py", "tiers.toml"):
        (suite / name).write_text((TESTS / name).read_text())
    (suite / tier / "test_rule.py").write_text(source)
    (suite / tier / "test_other.py").write_text(PASSES)
    inherited = {k: v for k, v in os.environ.items() if k not in {"CI", "FINETUNE_REQUIRE_TIERS"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", str(suite)],
        env=inherited | {"PYTHONPATH": str(TESTS)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
