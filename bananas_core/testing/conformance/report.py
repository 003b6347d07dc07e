"""What a run of the suite showed: promise by promise, as a table and as JSON."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from bananas_core.testing.conformance.version import VERSION

_WORST_FIRST: Final = ("failed", "passed", "skipped")
"""A promise is as good as its worst test; one that was only skipped is ``skipped``."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One test's outcome; ``reason`` says why it was skipped."""

    test: str
    outcome: str
    reason: str = ""


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """One promise's outcome and the tests that show it."""

    promise: str
    outcome: str
    tests: tuple[Shown, ...]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON form."""

    suite: str
    subject: str
    promises: tuple[Promise, ...]


class Report:
    """Collects outcomes. ``subject`` names what was tested, without secrets."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._tests: dict[str, list[Shown]] = {}

    def add(self, test: str, promises: Sequence[str], outcome: str, reason: str = "") -> None:
        """Note that a test about ``promises`` ``passed``, ``failed`` or was ``skipped``."""
        for promise in promises:
            shown = Shown(test=test, outcome=outcome, reason=reason)
            self._tests.setdefault(promise, []).append(shown)

    def promises(self) -> list[Promise]:
        """All promises that a test was about, in order of their number."""
        return [
            Promise(
                promise=promise,
                outcome=min((t.outcome for t in tests), key=_WORST_FIRST.index),
                tests=tuple(tests),
            )
            for promise, tests in sorted(self._tests.items(), key=lambda item: by_number(item[0]))
        ]

    def table(self) -> str:
        """For people: one line a promise, and the tests that failed or were skipped."""
        lines = [f"{self.subject} (suite {VERSION})"]
        for promise in self.promises():
            counts = [
                f"{sum(test.outcome == outcome for test in promise.tests)} {outcome}"
                for outcome in ("passed", "failed", "skipped")
                if any(test.outcome == outcome for test in promise.tests)
            ]
            lines.append(f"{promise.promise:<5}{promise.outcome:<9}{', '.join(counts)}")
            lines += [
                f"       {test.outcome}: {test.test}{': ' if test.reason else ''}{test.reason}"
                for test in promise.tests
                if test.outcome != "passed"
            ]
        return "\n".join(lines)

    def json(self) -> bytes:
        """For programs, such as the one that writes the driver matrix."""
        document = Document(suite=VERSION, subject=self.subject, promises=tuple(self.promises()))
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def by_number(promise: str) -> tuple[str, int]:
    """Sorts L2 before L10."""
    match = re.fullmatch(r"([A-Z]+)([0-9]+)", promise)
    return (match[1], int(match[2])) if match else (promise, 0)
