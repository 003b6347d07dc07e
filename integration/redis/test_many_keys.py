"""Workers that serve many routing keys: each has its turn, and a look costs no more than it finds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from bananas_brokers.redis.results import RedisResultBackend
from bananas_brokers.redis.transport import RedisTransport
from bananas_core.job import JobPut, Session
from bananas_core.message import Message, encode_message
from bananas_core.results import ResultBackend
from bananas_core.transport import Received

KEYS = [f"k{number}" for number in range(300)]


@pytest.fixture
async def drivers(redis_url: str, namespace: str) -> AsyncIterator[tuple[ResultBackend, RedisTransport]]:
    backend, transport = RedisResultBackend(redis_url, namespace), RedisTransport(redis_url, namespace)
    await backend.open(guard=False, horizon=0.0)
    await transport.open()
    yield backend, transport
    await transport.close()
    await backend.close()
