"""The PostgreSQL driver against the suite, on a clock that the tests move; after each test, what
serves indexes must agree with the records."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance import (
    Harness,
    ResultBackendConformance,
    TransportConformance,
)
from integration.postgres.invariants import check
from integration.postgres.support import pair_on

pytestmark = pytest.mark.timeout(180)  # one test alone makes thirty thousand calls


class TestPostgres(TransportConformance, ResultBackendConformance):
    @pytest.fixture
    async def harness(self, url: str, namespace: str) -> AsyncIterator[Harness]:
        clock = ManualClock()
        harness = Harness(
            lambda: pair_on(url, namespace, clock),
            clock=clock,
        )
        yield harness
        await harness.aclose()
        await check(url, namespace)
