"""The Redis driver against the suite, on a clock that the tests move; after each test, every index
must agree with the records."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis

from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance import (
    Harness,
    ResultBackendConformance,
    TransportConformance,
)
from integration.redis.invariants import check
from integration.redis.support import pair_on


class TestRedis(TransportConformance, ResultBackendConformance):
    @pytest.fixture
    async def harness(self, redis_url: str, namespace: str) -> AsyncIterator[Harness]:
        clock = ManualClock()
        harness = Harness(lambda: pair_on(redis_url, namespace, clock), clock=clock)
        yield harness
        await harness.aclose()
        with redis.Redis.from_url(redis_url) as client:
            check(client, namespace)
