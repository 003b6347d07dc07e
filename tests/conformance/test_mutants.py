"""The tests of the suite are tested: a driver with a planted fault fails the test named for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from plant import MUTANTS, Plant
from test_memory import harness_for

from bananas_core.errors import BananasError
from bananas_core.testing.conformance import Limits

FAILURES = (AssertionError, ValueError, TimeoutError, BananasError, pytest.fail.Exception)
"""How a test fails; being skipped is not among them."""

for _topic in ("transport", "claim", "record", "node", "unique", "limit", "workflow"):
    importlib.import_module(f"{_topic}_mutants")

SHORT = Limits(deadline=0.5, wake=0.3)


async def run(test: Callable[..., Any]) -> None:
    """One test of the suite on a fresh memory driver."""
    harness = harness_for("memory://mutant", SHORT)
    try:
        await test(None, harness)
    finally:
        await harness.aclose()


@pytest.mark.parametrize(
    ("plant", "test"), MUTANTS, ids=[f"{p.__name__}-{t.__name__}" for p, t in MUTANTS]
)
async def test_a_fault_is_caught(
    plant: Plant, test: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(test)  # without the fault it passes
    plant(monkeypatch)
    with pytest.raises(FAILURES):
        await run(test)


def test_there_are_many_faults() -> None:
    assert len({plant for plant, _ in MUTANTS}) >= 75
