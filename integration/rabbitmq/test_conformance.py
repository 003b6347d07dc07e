"""The RabbitMQ driver against the suite. The ledger has nothing to do with it, and has its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bananas_core.testing.conformance import Harness, TransportConformance
from integration.rabbitmq.support import pair_on
from integration.servers import RabbitServer


class TestRabbit(TransportConformance):
    @pytest.fixture
    async def harness(
        self, rabbit: RabbitServer, namespace: str, ledger_url: str
    ) -> AsyncIterator[Harness]:
        harness = Harness(
            lambda: pair_on(rabbit.url, ledger_url, namespace, lease=2.0), level="extended"
        )
        yield harness
        await harness.aclose()
