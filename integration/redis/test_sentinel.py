"""Fail-over by Sentinel: a new master is found, and what its replica confirmed is there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bananas_core.errors import ResultBackendUnavailable
from bananas_core.testing.conformance.support import a_job
from integration.redis.invariants import check
from integration.redis.support import again, client_of, pair_on, received, succeed
from integration.servers import RedisServer, SentinelServer
from integration.servers.need import need

Group = tuple[RedisServer, RedisServer, SentinelServer]


@pytest.fixture
def group() -> Iterator[Group]:
    """A master, its replica, and the sentinel that watches them."""
    need(RedisServer)
    settings = {"repl-diskless-sync-delay": "0"}
    with (
        RedisServer(appendonly=False, settings=settings) as master,
        RedisServer(appendonly=False, settings=settings, replicaof=master) as replica,
        SentinelServer({"mymaster": master}, failover_timeout=5) as sentinel,
    ):
        until = time.monotonic() + 20
        while not _known(sentinel):
            assert time.monotonic() < until, "the sentinel does not see the replica"
            time.sleep(0.1)
        yield master, replica, sentinel


def _known(sentinel: SentinelServer) -> bool:
    replicas = client_of(sentinel).sentinel_slaves("mymaster")
    return any(one["master-link-status"] == "ok" for one in replicas)


async def test_a_fail_over_is_followed_and_loses_nothing_confirmed(group: Group) -> None:
    master, replica, sentinel = group
    pair = pair_on(sentinel.url + "?wait_replicas=1", "failover")
    await pair.open()
    puts = [a_job() for _ in range(50)]
    await pair.backend.put(puts)
    before = await received(pair, "s", 10)
    await pair.backend.finish([succeed(claim) for claim in before[:5]])
    await pair.backend.put([])
    master.kill()
    begun = time.monotonic()
    with pytest.raises(ResultBackendUnavailable):
        await pair.backend.now()
    await again(lambda: pair.backend.now(), 30.0)
    assert time.monotonic() - begun < 15.0
    jobs = await pair.backend.get([put.id for put in puts])
    assert None not in jobs
    rest = await again(lambda: received(pair, "t", 100), 10.0)
    assert len(rest) >= 40
    assert min(claim.fence for claim in rest) > max(claim.fence for claim in before)
    with pytest.raises(ResultBackendUnavailable, match="0 of 1"):
        await pair.backend.put([a_job()])  # no replica is left to confirm it
    check(client_of(replica), "failover")
    await pair.close()
