"""Which tests of the suite run where."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from bananas_core.testing.conformance.marks import takes


@pytest.mark.parametrize(
    ("seconds", "level", "manual_clock", "runs"),
    [
        (3, "core", True, True),
        (3, "core", False, False),
        (3, "extended", False, True),
        (59, "faults", False, True),
        (60, "extended", False, False),
        (60, "faults", False, False),
        (60, "stress", False, True),
        (60, "core", True, True),
    ],
)
def test_what_really_waits_needs_a_level(
    seconds: float, level: str, manual_clock: bool, runs: bool
) -> None:
    ran = []

    async def test(self: Any, harness: Any) -> None:
        ran.append(harness)

    capabilities = SimpleNamespace(level=level, manual_clock=manual_clock)
    harness = SimpleNamespace(capabilities=capabilities)
    with nullcontext() if runs else pytest.raises(pytest.skip.Exception, match="level "):
        asyncio.run(takes(seconds)(test)(None, harness))
    assert bool(ran) is runs
