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
    """A running server."""
    need(PostgresServer)
    with PostgresServer() as found:
        yield found


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.url


@pytest.fixture
def namespace(url: str) -> Iterator[str]:
    """A namespace that is erased afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"

    async def erase() -> None:
        backend = PostgresResultBackend(url, name)
        await backend.open()
        await backend.erase()
        await backend.close()

    asyncio.run(erase())  # makes the tables
    yield name
    asyncio.run(erase())
