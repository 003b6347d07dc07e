"""The pytest plugin behind ``pytest --pyargs bananas_core.testing.conformance --bananas-url URL``.

It is small on purpose, since pytest loads it in every project that has Bananas installed: the
suite is imported only when ``--bananas-url`` is given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


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


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--bananas-url"):
        config.pluginmanager.register(Collecting(config), "bananas-conformance-report")


class Collecting:
    """Notes the outcome of each test of the suite and reports by promise at the end."""

    def __init__(self, config: pytest.Config) -> None:
        from bananas_core.testing.conformance.report import Report
        from bananas_core.urls import redact

        self._file = config.getoption("--bananas-report")
        self.report = Report(redact(config.getoption("--bananas-url")))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        from bananas_core.testing.conformance.marks import promises_of

        outcome: pytest.TestReport = yield
        promises = promises_of(getattr(item, "function", None))
        if promises and (outcome.when == "call" or outcome.outcome != "passed"):
            reason = ""
            if outcome.skipped and isinstance(outcome.longrepr, tuple):
                reason = outcome.longrepr[2].removeprefix("Skipped: ")
            self.report.add(item.name, promises, outcome.outcome, reason)
        return outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("promises")
        terminalreporter.write_line(self.report.table())
        if self._file:
            Path(self._file).write_bytes(self.report.json())
            terminalreporter.write_line(f"written to {self._file}")
