"""The suite with ``shards=3``: on a cluster, where each shard is on a node of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance import (
    Harness,
    ResultBackendConformance,
    TransportConformance,
)
from integration.redis.cluster import cluster_url, owner, three_nodes
from integration.redis.invariants import check
from integration.redis.support import client_of, pair_on
from integration.servers import RedisServer

SHARDS = 3


@pytest.fixture(scope="session")
def nodes() -> Iterator[list[RedisServer]]:
    with three_nodes() as found:
        yield found


@pytest.fixture
def spread(nodes: list[RedisServer]) -> str:
    """A namespace with a shard on each node."""
    while True:
        name = f"spread-{uuid.uuid4().hex[:8]}"
        if len({owner(nodes, f"{name}:{k}") for k in range(SHARDS)}) == SHARDS:
            return name


class TestShardsOfACluster(TransportConformance, ResultBackendConformance):
    if not os.environ.get("BANANAS_LONG"):  # it takes longer than all others together
        test_a_crash_at_any_call_of_a_follow_up_is_made_good = None

    @pytest.fixture
    async def harness(self, nodes: list[RedisServer], spread: str) -> AsyncIterator[Harness]:
        clock, url = ManualClock(), f"{cluster_url(nodes)}?shards={SHARDS}"
        harness = Harness(lambda: pair_on(url, spread, clock), clock=clock)
        yield harness
        await harness.aclose()
        for k in range(SHARDS):
            with client_of(owner(nodes, f"{spread}:{k}")) as client:
                check(client, f"{spread}:{k}")
        for node in nodes:
            with client_of(node) as client:
                client.flushall()
