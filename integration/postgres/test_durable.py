"""What the suite asks of a ledger that keeps what it confirmed: the server killed and started
again. Here the server's own clock counts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bananas_core.testing.conformance import Harness
from bananas_core.testing.conformance.claims import Claiming
from bananas_core.testing.conformance.delivery import Connecting
from bananas_core.testing.conformance.results import Recording
from integration.postgres.support import pair_on
from integration.servers import PostgresServer
from integration.servers.need import need


class TestDurable:
    @pytest.fixture
    async def harness(self) -> AsyncIterator[Harness]:
        async def restart() -> None:
            server.kill()
            await harness.aclose()
            server.start()

        need(PostgresServer)
        with PostgresServer(fsync=True) as server:
            harness = Harness(lambda: pair_on(server.url, "durable"), restart=restart)
            yield harness
            await harness.aclose()

    test_messages = Connecting.test_a_confirmed_message_survives_a_crash_of_the_broker
    test_records = Recording.test_what_was_confirmed_survives_a_crash_of_the_broker
    test_fences = Claiming.test_fences_rise_over_a_crash_of_the_broker
