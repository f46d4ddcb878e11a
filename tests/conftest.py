"""For all tests: where everything must be installed, a skipped test is a failure."""

import os
from collections.abc import Generator, Iterator

import pytest

from support.logging_state import logging_restored


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Undo what a process that is run within the test does to the interpreter."""
    with logging_restored():
        yield


def pytest_configure() -> None:
    """Output is as wide as it is by itself, whatever the terminal in front of the tests, or pytest's worker, says."""
    os.environ.pop("COLUMNS", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("STOWGATE_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where STOWGATE_NO_SKIPS is set: {report.longrepr}"
    # Tests log lone surrogates on purpose, and a report goes from process to process as UTF-8.
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself, for want of a library, has no tests whose reports could say so."""
    report = yield
    if report.skipped and os.environ.get("STOWGATE_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped, where STOWGATE_NO_SKIPS is set: {report.longrepr}"
    return report
