"""A cluster: a namespace lives in one slot, and is followed when that slot moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.crc import key_slot

from bananas_core.errors import ConfigurationError
from bananas_core.job import JobState
from bananas_core.testing.conformance.support import a_job
from integration.redis.invariants import check
from integration.redis.server import Server, program_path
from integration.redis.support import again, pair_on, received, succeed

pytestmark = pytest.mark.skipif(program_path() is None, reason="no redis-server here")
NAMESPACE = "spread"
SLOT = key_slot(f"{{{NAMESPACE}}}:meta".encode())


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Server]]:
    """Three masters that share the slots."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    found = [Server(tmp_path / str(n), *options) for n in range(3)]
    try:
        for n, node in enumerate(found):
            node.start()
            first, last = n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            node.client().execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for node in found[1:]:
            node.client().execute_command("CLUSTER MEET", "127.0.0.1", found[0].port)
        until = time.monotonic() + 20
        while not all(_whole(node.client()) for node in found):
            assert time.monotonic() < until, "the cluster does not come up"
            time.sleep(0.1)
        yield found
    finally:
        for node in found:
            node.stop()


def _whole(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    known = client.execute_command("CLUSTER SLOTS")
    return info["cluster_state"] == "ok" and len(known) == 3


def _owner(nodes: list[Server]) -> Server:
    return nodes[SLOT * 3 // 16384]


def _move(nodes: list[Server], source: Server, target: Server) -> None:
    """What resharding does to our slot."""
    ids = {n: n.client().execute_command("CLUSTER MYID").decode() for n in nodes}
    target.client().execute_command("CLUSTER SETSLOT", SLOT, "IMPORTING", ids[source])
    source.client().execute_command("CLUSTER SETSLOT", SLOT, "MIGRATING", ids[target])
    client = source.client()
    while keys := client.execute_command("CLUSTER GETKEYSINSLOT", SLOT, 100):
        client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source, *nodes):
        node.client().execute_command("CLUSTER SETSLOT", SLOT, "NODE", ids[target])


async def test_jobs_go_round_in_a_cluster_and_follow_their_slot(nodes: list[Server]) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    pair = pair_on(url, NAMESPACE)
    await pair.open()
    puts = [a_job(max_attempts=9) for _ in range(30)]
    await pair.backend.put(puts)
    waiting = asyncio.create_task(pair.backend.wait([puts[0].id], 20.0))
    claims = await received(pair, "s", 10)
    source = _owner(nodes)
    check(source.client(), NAMESPACE)
    target = next(node for node in nodes if node is not source)
    _move(nodes, source, target)
    answers, _ = await again(lambda: pair.backend.finish([succeed(claim) for claim in claims]))
    assert all(answer.accepted for answer in answers)
    (first,) = await waiting
    assert first.state is JobState.COMPLETED
    more = await again(lambda: received(pair, "s", 100))
    assert {c.id for c in [*claims, *more]} == {put.id for put in puts}
    check(target.client(), NAMESPACE)
    assert list(source.client().scan_iter(match=f"{{{NAMESPACE}}}:*")) == []
    await pair.close()


async def test_a_cluster_is_named_as_one(nodes: list[Server]) -> None:
    with pytest.raises(ConfigurationError, match="cluster"):
        await pair_on(_owner(nodes).url, NAMESPACE).open()
    for url in ("redis+cluster://a:1,b:2/3", "redis+cluster://a:1?shards=2"):
        with pytest.raises(ConfigurationError):
            pair_on(url, NAMESPACE)
