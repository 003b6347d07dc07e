"""Behind PgBouncer, where each transaction may get another connection: what the suite asks, with
several clients on few connections, and the server's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bananas_core.testing.conformance import Harness, TransportConformance
from bananas_core.testing.conformance.claims import Claiming
from bananas_core.testing.conformance.docs import Documents
from bananas_core.testing.conformance.fences import Finishing
from bananas_core.testing.conformance.support import a_job
from bananas_core.testing.conformance.waiting import Waiting
from integration.postgres.support import pair_on, received, succeed
from integration.servers import PgBouncerServer, PostgresServer
from integration.servers.need import need


@pytest.fixture(scope="module")
def pooler(server: PostgresServer) -> Iterator[PgBouncerServer]:
    need(PgBouncerServer)
    with PgBouncerServer(server, pool_size=3) as found:
        yield found


class TestPooled(TransportConformance, Claiming, Documents, Finishing, Waiting):
    @pytest.fixture
    async def harness(self, pooler: PgBouncerServer, namespace: str) -> AsyncIterator[Harness]:
        harness = Harness(lambda: pair_on(pooler.url, namespace))
        yield harness
        await harness.aclose()


async def test_it_is_noticed(server: PostgresServer, pooler: PgBouncerServer) -> None:
    for url, options, pooled in (
        (server.url, "", False),
        (server.url, "?pooler=true", True),
        (pooler.url, "", True),
        (pooler.url, "?pooler=true", True),
    ):
        pair: Any = pair_on(url + options, "noticed")
        await pair.open()
        assert pair.backend._store.database.facts.pooled is pooled
        await pair.close()


async def test_many_clients_on_few_connections(pooler: PgBouncerServer, namespace: str) -> None:
    pairs = [pair_on(f"{pooler.url}?pool_size={n + 2}", namespace) for n in range(6)]
    await asyncio.gather(*(pair.open() for pair in pairs))
    puts = [a_job() for _ in range(300)]
    for pair, start in zip(pairs, range(0, 300, 50), strict=True):
        await pair.backend.put(puts[start : start + 50])
    done: list[str] = []

    async def work(number: int) -> None:
        pair = pairs[number % 6]
        while claims := await received(pair, f"s{number}", 5, 0.5):
            answers, _ = await pair.backend.finish([succeed(claim) for claim in claims])
            assert all(answer.accepted for answer in answers)
            done.extend(claim.id for claim in claims)

    await asyncio.gather(*(work(number) for number in range(12)))
    assert sorted(done) == sorted(put.id for put in puts)
    for pair in pairs:
        await pair.close()
