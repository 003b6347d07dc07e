"""All tests that can share one server, each in a namespace of its own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from bananas_brokers.postgres.results import PostgresResultBackend
from integration.servers import PostgresServer
from integration.servers.need import need


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A running server with tables; all goes with it at the end."""
    need(PostgresServer)

    async def make_tables(url: str) -> None:
        backend = PostgresResultBackend(url, "first")
        await backend.open()
        await backend.close()

    with PostgresServer() as found:
        asyncio.run(make_tables(found.url))
        yield found


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.url


@pytest.fixture
def namespace() -> str:
    """One that nobody else uses."""
    return f"test-{uuid.uuid4().hex[:12]}"
