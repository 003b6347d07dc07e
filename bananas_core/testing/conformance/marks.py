"""Which promise a test is about, and when it can't run."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from bananas_core.testing.conformance.harness import LEVELS, Capabilities

Test = Callable[..., Awaitable[None]]

CONTRACTS: Final = {
    "T": ("transport", "Transport"),
    "L": ("results", "ResultBackend"),
    "U": ("unique", "Unique keys"),
    "Q": ("limits.limiter", "Limits"),
    "W": ("workflow.engine", "Workflows"),
}
"""Where promises are made: the letter of their ids, the module of ``bananas_core`` whose docstrings
say them, and what that is about."""

NO_RESTART: Final = "keeps nothing over a restart, or can't be restarted here"


def promise(*ids: str) -> Callable[[Test], Test]:
    """The promises (T1, L7, …) that a test shows; the report and the driver matrix use them."""

    def mark(test: Test) -> Test:
        test.__dict__["promises"] = ids
        return test

    return mark


def promises_of(test: Any) -> tuple[str, ...]:
    """What ``promise`` said about a test."""
    return getattr(test, "promises", ())


def requires(can: Callable[[Capabilities], bool], reason: str) -> Callable[[Test], Test]:
    """Skip, with the reason, for drivers that declare otherwise."""
    return _skip_if(lambda capabilities: None if can(capabilities) else reason)


def level(name: str) -> Callable[[Test], Test]:
    """Run only when this level, or a later one, is asked for."""

    def why(capabilities: Capabilities) -> str | None:
        if LEVELS.index(name) <= LEVELS.index(capabilities.level):
            return None
        return f"level {name}"

    return _skip_if(why)


def takes(seconds: float) -> Callable[[Test], Test]:
    """The test lets that much of the broker's time pass: level extended where it really waits, and
    from a minute on level stress."""
    needed = "extended" if seconds < 60 else "stress"

    def why(capabilities: Capabilities) -> str | None:
        enough = LEVELS.index(needed) <= LEVELS.index(capabilities.level)
        if capabilities.manual_clock or enough:
            return None
        return f"level {needed}: waits {seconds:g} s, as the driver takes no clock"

    return _skip_if(why)


def _skip_if(why: Callable[[Capabilities], str | None]) -> Callable[[Test], Test]:
    def mark(test: Test) -> Test:
        @functools.wraps(test)
        async def run(self: Any, harness: Any) -> None:
            reason = why(harness.capabilities)
            if reason is not None:
                pytest.skip(reason)
            await test(self, harness)

        return run

    return mark
