"""A cluster: a namespace lives in one slot, and is followed when that slot moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from redis.crc import key_slot

from bananas_core.errors import ConfigurationError
from bananas_core.job import JobState
from bananas_core.testing.conformance.support import a_job
from integration.redis.invariants import check
from integration.redis.support import again, client_of, pair_on, received, succeed
from integration.servers import RedisServer
from integration.servers.need import need

NAMESPACE = "spread"
SLOT = key_slot(f"{{{NAMESPACE}}}:meta".encode())


@pytest.fixture
def nodes() -> Iterator[list[RedisServer]]:
    """Three masters that share the slots."""
    need(RedisServer)
    settings = {"cluster-enabled": "yes", "cluster-node-timeout": "2000"}
    with ExitStack() as stack:
        found = [
            stack.enter_context(RedisServer(appendonly=False, settings=settings)) for _ in range(3)
        ]
        for n, node in enumerate(found):
            first, last = n * 16384 // 3, (n + 1) * 16384 // 3 - 1
            client_of(node).execute_command("CLUSTER ADDSLOTSRANGE", first, last)
        for node in found[1:]:
            client_of(node).execute_command("CLUSTER MEET", "127.0.0.1", found[0].port)
        until = time.monotonic() + 20
        while not all(_whole(client_of(node)) for node in found):
            assert time.monotonic() < until, "the cluster does not come up"
            time.sleep(0.1)
        yield found


def _whole(client: redis.Redis) -> bool:
    info = client.execute_command("CLUSTER INFO")
    known = client.execute_command("CLUSTER SLOTS")
    return info["cluster_state"] == "ok" and len(known) == 3


def _owner(nodes: list[RedisServer]) -> RedisServer:
    return nodes[SLOT * 3 // 16384]


def _move(nodes: list[RedisServer], source: RedisServer, target: RedisServer) -> None:
    """What resharding does to our slot."""
    ids = {n: client_of(n).execute_command("CLUSTER MYID").decode() for n in nodes}
    client_of(target).execute_command("CLUSTER SETSLOT", SLOT, "IMPORTING", ids[source])
    client_of(source).execute_command("CLUSTER SETSLOT", SLOT, "MIGRATING", ids[target])
    client = client_of(source)
    while keys := client.execute_command("CLUSTER GETKEYSINSLOT", SLOT, 100):
        client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source, *nodes):
        client_of(node).execute_command("CLUSTER SETSLOT", SLOT, "NODE", ids[target])


async def test_jobs_go_round_in_a_cluster_and_follow_their_slot(nodes: list[RedisServer]) -> None:
    url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    pair = pair_on(url, NAMESPACE)
    await pair.open()
    puts = [a_job(max_attempts=9) for _ in range(30)]
    await pair.backend.put(puts)
    waiting = asyncio.create_task(pair.backend.wait([puts[0].id], 20.0))
    claims = await received(pair, "s", 10)
    source = _owner(nodes)
    check(client_of(source), NAMESPACE)
    target = next(node for node in nodes if node is not source)
    _move(nodes, source, target)
    answers, _ = await again(lambda: pair.backend.finish([succeed(claim) for claim in claims]))
    assert all(answer.accepted for answer in answers)
    (first,) = await waiting
    assert first.state is JobState.COMPLETED
    more = await again(lambda: received(pair, "s", 100))
    assert {c.id for c in [*claims, *more]} == {put.id for put in puts}
    check(client_of(target), NAMESPACE)
    assert list(client_of(source).scan_iter(match=f"{{{NAMESPACE}}}:*")) == []
    await pair.close()


async def test_a_cluster_is_named_as_one(nodes: list[RedisServer]) -> None:
    with pytest.raises(ConfigurationError, match="cluster"):
        await pair_on(_owner(nodes).url, NAMESPACE).open()
    with pytest.raises(ConfigurationError):
        pair_on("redis+cluster://a:1,b:2/3", NAMESPACE)
