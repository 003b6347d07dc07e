"""The pytest plugin behind ``pytest --pyargs bananas_core.testing.conformance --bananas-url URL``.

It is small on purpose, since pytest loads it in every project that has Bananas installed: the
suite is imported only when ``--bananas-url`` is given.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import pytest

PROMISES: Final = "bananas_promises"
"""The property by which a test tells its promises, also from another process (pytest-xdist)."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bananas", "Bananas conformance suite")
    group.addoption(
        "--bananas-url", metavar="URL", help="broker to test with bananas_core.testing.conformance"
    )
    group.addoption(
        "--bananas-result-backend-url", metavar="URL", help="its ledger, if that has its own URL"
    )
    group.addoption(
        "--bananas-level",
        default="core",
        choices=["core", "extended", "faults", "stress"],
        help="which tests: extended really waits where a driver takes no clock (default: core)",
    )
    group.addoption(
        "--bananas-report", metavar="FILE", help="write the outcome of each promise as JSON"
    )
    group.addoption("--bananas-promise", metavar="ID", help="only the tests that show this promise")
    group.addoption(
        "--bananas-name", metavar="NAME", help="how reports call this broker (default: its URL)"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--bananas-url"):
        config.pluginmanager.register(Collecting(config), "bananas-conformance-report")


class Collecting:
    """Notes the outcome of each test of the suite and reports by promise at the end."""

    def __init__(self, config: pytest.Config) -> None:
        from bananas_core.testing.conformance.report import Report
        from bananas_core.urls import redact

        self._url = config.getoption("--bananas-url")
        self._ledger = config.getoption("--bananas-result-backend-url")
        self._file = config.getoption("--bananas-report")
        self._begun = time.monotonic()
        self._promise = config.getoption("--bananas-promise")
        name = config.getoption("--bananas-name") or redact(self._url)
        self.report = Report(name, level=config.getoption("--bananas-level"))

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[Any]) -> None:
        from bananas_core.testing.conformance.marks import promises_of

        if self._promise:
            wanted = [item for item in items if self._promise in promises_of(item.function)]
            config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
            items[:] = wanted

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        from bananas_core.testing.conformance.marks import promises_of

        outcome: pytest.TestReport = yield
        promises = promises_of(getattr(item, "function", None))
        if promises:
            outcome.user_properties.append((PROMISES, list(promises)))
        return outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        promises = dict(report.user_properties).get(PROMISES)
        if isinstance(promises, list) and (report.when == "call" or report.outcome != "passed"):
            reason = ""
            if report.skipped and isinstance(report.longrepr, (tuple, list)):
                reason = report.longrepr[2].removeprefix("Skipped: ")
            name = report.nodeid.rpartition("::")[2]
            self.report.add(name, promises, report.outcome, reason, report.duration)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        from bananas_core.testing.conformance.subject import look_at

        self.report.seconds = time.monotonic() - self._begun
        self.report.pair = asyncio.run(look_at(self._url, self._ledger, self.report.level))
        terminalreporter.section("promises")
        terminalreporter.write_line(self.report.table())
        if self._file:
            Path(self._file).write_bytes(self.report.json())
            terminalreporter.write_line(f"written to {self._file}")
