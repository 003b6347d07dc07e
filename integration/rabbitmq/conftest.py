"""All tests of this folder that only use a server share one, each in a namespace of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.servers import RabbitServer, RedisServer
from integration.servers.need import need


@pytest.fixture(scope="session")
def rabbit() -> Iterator[RabbitServer]:
    """A running server."""
    need(RabbitServer)
    with RabbitServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A running server for ledgers."""
    need(RedisServer)
    with RedisServer(appendonly=False) as server:
        yield server.url


@pytest.fixture
def namespace() -> str:
    """A namespace that nobody else uses. Its queues go with the server."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def ledger_url(tmp_path: Path) -> str:
    """A ledger of the test's own."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"
