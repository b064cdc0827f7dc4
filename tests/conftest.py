"""What holds for all tests: marks by folder, grouping of heavy tests, honesty about what did not run."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.postgres import Postgres, binaries, running

HERE = Path(__file__).parent
# Tests of these folders start processes.  Each folder's tests share one worker, so that a machine with few
# cores never runs more than a few meshes at a time; a test may name a group of its own.
HEAVY = ("e2e", "interop")
IN_CI = os.environ.get("CI") == "true"

# How fast a loaded machine makes up examples says nothing about what is tested.  The examples are the same in every
# run, so that a change fails for what it is; `make explore` tries others.
EXPLORING = bool(os.environ.get("EXPLORE"))
settings.register_profile(
    "patient",
    settings.get_profile("default" if EXPLORING else "ci"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of this worker's own."""
    found = binaries()
    if found is None:
        reason = "needs PostgreSQL's server programs (Debian: apt-get install postgresql)"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    with running(found) as cluster:
        yield cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the heavy tests after their folder."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""
        if folder in HEAVY:
            item.add_marker(getattr(pytest.mark, folder))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a heavy test that skips itself has failed: a missing Envoy must not look like success.

    So has any test that skips itself because something "is not installed": `.ci/run` installs it.
    """
    report = yield
    needed = any(item.get_closest_marker(name) for name in HEAVY) or "is not installed" in str(
        report.longrepr
    )
    if IN_CI and needed and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where it must run: {report.longrepr}"
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run in which nothing passed is not a success, even if all was skipped."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or os.environ.get("PYTEST_XDIST_WORKER") or session.config.option.collectonly:
        return
    if exitstatus == pytest.ExitCode.OK and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
