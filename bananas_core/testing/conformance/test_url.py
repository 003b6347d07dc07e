"""The suite for whatever ``--bananas-url`` names; collected by ``pytest --pyargs``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from bananas_core.pair import Pair, load_pair
from bananas_core.testing.conformance import (
    Harness,
    ResultBackendConformance,
    TransportConformance,
)


@pytest_asyncio.fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """A namespace of its own for each test."""
    url = request.config.getoption("--bananas-url", default=None)
    if not url:
        pytest.skip("no --bananas-url")
    ledger = request.config.getoption("--bananas-result-backend-url")
    namespace = f"conformance-{uuid.uuid4().hex[:12]}"

    def make_pair() -> Pair:
        return load_pair(url, ledger, namespace)

    found = Harness(make_pair, level=request.config.getoption("--bananas-level"))
    yield found
    await found.aclose()


class TestTransport(TransportConformance):
    pass


class TestResultBackend(ResultBackendConformance):
    pass
