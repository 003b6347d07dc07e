"""Fail-over by Sentinel: a new master is found, and what its replica confirmed is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from bananas_core.errors import ResultBackendUnavailable
from bananas_core.testing.conformance.support import a_job
from integration.redis.invariants import check
from integration.redis.server import Server, program_path
from integration.redis.support import again, pair_on, received, succeed

pytestmark = pytest.mark.skipif(program_path() is None, reason="no redis-server here")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[tuple[Server, Server, Server]]:
    """A master, its replica, and the sentinel that watches them."""
    master = Server(tmp_path / "master", "--repl-diskless-sync-delay", "0")
    replica = Server(
        tmp_path / "replica",
        *("--replicaof", f"127.0.0.1 {master.port}"),
        *("--repl-diskless-sync-delay", "0"),
    )
    folder = tmp_path / "sentinel"
    folder.mkdir()
    file = folder / "sentinel.conf"
    file.write_text(
        f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds mymaster 1000\n"
        "sentinel failover-timeout mymaster 5000\n"
    )
    sentinel = Server(folder, config=file, sentinel=True)
    servers = (master, replica, sentinel)
    try:
        for server in servers:
            server.start()
        until = time.monotonic() + 20
        while not _known(sentinel):
            assert time.monotonic() < until, "the sentinel does not see the replica"
            time.sleep(0.1)
        yield servers
    finally:
        for server in reversed(servers):
            server.stop()


def _known(sentinel: Server) -> bool:
    client = redis.Redis(port=sentinel.port)
    replicas = client.sentinel_slaves("mymaster")
    return any(one["master-link-status"] == "ok" for one in replicas)


async def test_a_fail_over_is_followed_and_loses_nothing_confirmed(
    group: tuple[Server, Server, Server],
) -> None:
    master, replica, sentinel = group
    url = f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0?wait_replicas=1"
    pair = pair_on(url, "failover")
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
    check(replica.client(), "failover")
    await pair.close()
