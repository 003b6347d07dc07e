"""The memory drivers against the suite."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest

from bananas_brokers.memory.results import MemoryResultBackend
from bananas_brokers.memory.transport import MemoryTransport
from bananas_core.pair import Pair
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance import (
    Harness,
    Limits,
    ResultBackendConformance,
    TransportConformance,
)


def harness_for(url: str, limits: Limits | None = None) -> Harness:
    """A store of its own, on a clock that stands still."""
    clock, namespace = ManualClock(), uuid.uuid4().hex
    return Harness(
        lambda: Pair(
            MemoryTransport(url, namespace, clock=clock),
            MemoryResultBackend(url, namespace, clock=clock),
        ),
        clock=clock,
        limits=limits,
    )


class TestFused(TransportConformance, ResultBackendConformance):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        harness = harness_for("memory://conformance")
        yield harness
        await harness.aclose()


class TestSplit(TransportConformance, ResultBackendConformance):
    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        harness = harness_for("memory://conformance?form=split")
        yield harness
        await harness.aclose()
