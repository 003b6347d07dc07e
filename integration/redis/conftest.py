"""The tests of this folder run on each kind of server that is there. All that run on one share it,
each in a namespace of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from integration.servers import RedisServer, ValkeyServer
from integration.servers.need import need


@pytest.fixture(scope="session", params=[RedisServer, ValkeyServer], ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> type[RedisServer]:
    """A kind of server whose program is installed."""
    found: type[RedisServer] = request.param
    need(found)
    return found


@pytest.fixture(scope="session")
def redis_url(kind: type[RedisServer]) -> Iterator[str]:
    """The URL of a running server."""
    with kind(appendonly=False) as server:
        yield server.url


@pytest.fixture
def namespace(redis_url: str) -> Iterator[str]:
    """A namespace whose keys are deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"{{{name}}}*", count=1000):
            client.unlink(key)
