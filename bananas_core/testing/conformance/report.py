"""What a run of the suite showed: promise by promise, as a table and as JSON."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from typing import Final

import msgspec

from bananas_core.testing.conformance.native import emulated
from bananas_core.testing.conformance.subject import Side, Subject
from bananas_core.testing.conformance.version import VERSION

_WORST_FIRST: Final = ("failed", "passed", "skipped")
"""A promise is as good as its worst test; one that was only skipped is ``skipped``."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One test's outcome; ``reason`` says why it was skipped. ``seconds`` that it took."""

    test: str
    outcome: str
    reason: str = ""
    seconds: float = 0.0


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """One promise's outcome and the tests that show it. ``emulated``: how the core makes up for
    what the driver declares not to have; empty when the driver keeps it natively."""

    promise: str
    outcome: str
    emulated: str = ""
    seconds: float = 0.0
    tests: tuple[Shown, ...]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON form. ``seconds`` that the whole run took."""

    suite: str
    subject: str
    level: str = "core"
    python: str = ""
    seconds: float = 0.0
    fused: bool | None = None
    transport: Side | None = None
    ledger: Side | None = None
    promises: tuple[Promise, ...]


class Report:
    """Collects outcomes. ``subject`` names what was tested, without secrets; ``pair`` is what it
    is, once that is known, and ``seconds`` is how long it all took."""

    def __init__(self, subject: str, *, level: str = "core") -> None:
        self.subject = subject
        self.level = level
        self.seconds = 0.0
        self.pair: Subject | None = None
        self._tests: dict[str, list[Shown]] = {}

    def add(
        self,
        test: str,
        promises: Sequence[str],
        outcome: str,
        reason: str = "",
        seconds: float = 0.0,
    ) -> None:
        """Note that a test about ``promises`` ``passed``, ``failed`` or was ``skipped``."""
        shown = Shown(test=test, outcome=outcome, reason=reason, seconds=round(seconds, 3))
        for promise in promises:
            self._tests.setdefault(promise, []).append(shown)

    def promises(self) -> list[Promise]:
        """All promises that a test was about, in order of their number."""
        return [
            Promise(
                promise=promise,
                outcome=min((t.outcome for t in tests), key=_WORST_FIRST.index),
                emulated="" if self.pair is None else emulated(promise, self.pair.capabilities),
                seconds=round(sum(test.seconds for test in tests), 3),
                tests=tuple(sorted(tests, key=lambda test: test.test)),
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
        pair = self.pair
        document = Document(
            suite=VERSION,
            subject=self.subject,
            level=self.level,
            python=platform.python_version(),
            seconds=round(self.seconds, 1),
            fused=None if pair is None else pair.fused,
            transport=None if pair is None else pair.transport,
            ledger=None if pair is None else pair.ledger,
            promises=tuple(self.promises()),
        )
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def by_number(promise: str) -> tuple[str, int]:
    """Sorts L2 before L10."""
    match = re.fullmatch(r"([A-Z]+)([0-9]+)", promise)
    return (match[1], int(match[2])) if match else (promise, 0)
