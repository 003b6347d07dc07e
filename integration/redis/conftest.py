"""One server for all tests of this folder, and a namespace for each."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
import redis

from integration.redis.server import URL, Server, program_path


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running server."""
    if URL:
        yield URL
        return
    if program_path() is None:
        pytest.skip("no redis-server here; set BANANAS_TEST_REDIS_URL or _SERVER")
    server = Server(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def namespace(redis_url: str) -> Iterator[str]:
    """A namespace whose keys are deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    yield name
    client = redis.Redis.from_url(redis_url)
    for key in client.scan_iter(match=f"{{{name}}}*", count=1000):
        client.unlink(key)
    client.close()
