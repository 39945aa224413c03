"""What holds for every test: its tier, no network beyond this machine, and no silent skip."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from harness.objectstore import ObjectStore, running_object_store

# Read by libraries when they are first imported, so set before any test module is.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
os.environ.update(OFFLINE)

# A slow machine fails no property. In CI the examples are the same in each run,
# so that a red one is red again; on a laptop every run tries others.
settings.register_profile("laptop", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")

TESTS = Path(__file__).resolve().parent
REQUIRED_SKIPS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Run a real S3 server on a folder until the last test is done."""
    with running_object_store(tmp_path_factory.mktemp("object-store")) as store:
        yield store


def tier_of(path: Path) -> str:
    """Return the tier of a test file: the folder below `tests/` that it lies in."""
    parts = path.resolve().relative_to(TESTS).parts
    return parts[0] if len(parts) > 1 else ""


def required_tiers() -> set[str]:
    """Return the tiers in which no test may be skipped, here and now."""
    by_hand = os.environ.get("FINETUNE_REQUIRE_TIERS")
    if by_hand is not None:
        return set(by_hand.split())
    listed = tomllib.loads((TESTS / "tiers.toml").read_text())
    place = "ci" if os.environ.get("CI") else "laptop"
    return set(listed["laptop"]) | set(listed[place])


def pytest_configure(config: pytest.Config) -> None:
    """Name the tiers as markers, so that `-m unit` selects one."""
    config.stash[REQUIRED_SKIPS] = []
    for folder in sorted({path.parent.name for path in TESTS.glob("*/test_*.py")}):
        config.addinivalue_line("markers", f"{folder}: the tests in tests/{folder}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its tier, and let the cluster come last: its nodes take all cores."""
    for item in items:
        if tier := tier_of(item.path):
            item.add_marker(tier)
    items.sort(key=lambda item: tier_of(item.path) == "cluster")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a skip in a tier that must run here; a test that is expected to fail is none."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        note_skip(item.config, item.path, item.nodeid)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Note a file that skips itself whole, as `pytest.importorskip` does."""
    report = yield
    if report.skipped:
        note_skip(collector.config, collector.path, collector.nodeid)
    return report


def note_skip(config: pytest.Config, path: Path, nodeid: str) -> None:
    """Keep the skip for the end of the run, if its tier must run here."""
    if tier_of(path) in required_tiers():
        config.stash[REQUIRED_SKIPS].append(nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that would pass but left out a test that must run here."""
    if session.config.stash[REQUIRED_SKIPS] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name the skips that failed the run, and where that is decided."""
    skips = config.stash[REQUIRED_SKIPS]
    if not skips:
        return
    terminalreporter.section("skipped where they must run", red=True)
    for nodeid in skips:
        terminalreporter.write_line(nodeid, red=True)
    terminalreporter.write_line(
        f"{len(skips)} skips fail this run: tests/tiers.toml says that "
        f"{', '.join(sorted(required_tiers()))} must run here in full.",
        red=True,
    )
