"""A cluster: a namespace lives in one slot, and is followed when that slot moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bananas_core.errors import ConfigurationError, ResultBackendUnavailable
from bananas_core.job import JobState
from bananas_core.testing.conformance.support import a_job
from integration.redis.cluster import begun_to_move, cluster_url, move, owner, slot_of, three_nodes
from integration.redis.invariants import check
from integration.redis.support import again, client_of, pair_on, received, succeed
from integration.servers import RedisServer

NAMESPACE = "spread"


@pytest.fixture
def nodes() -> Iterator[list[RedisServer]]:
    with three_nodes() as found:
        yield found


async def test_jobs_go_round_in_a_cluster_and_follow_their_slot(nodes: list[RedisServer]) -> None:
    pair = pair_on(cluster_url(nodes), NAMESPACE)
    await pair.open()
    puts = [a_job(max_attempts=9) for _ in range(30)]
    await pair.backend.put(puts)
    waiting = asyncio.create_task(pair.backend.wait([puts[0].id], 20.0))
    claims = await received(pair, "s", 10)
    source = owner(nodes, NAMESPACE)
    check(client_of(source), NAMESPACE)
    target = next(node for node in nodes if node is not source)
    move(nodes, slot_of(NAMESPACE), source, target)
    answers, _ = await again(lambda: pair.backend.finish([succeed(claim) for claim in claims]))
    assert all(answer.accepted for answer in answers)
    (first,) = await waiting
    assert first.state is JobState.COMPLETED
    more = await again(lambda: received(pair, "s", 100))
    assert {c.id for c in [*claims, *more]} == {put.id for put in puts}
    check(client_of(target), NAMESPACE)
    assert list(client_of(source).scan_iter(match=f"{{{NAMESPACE}}}:*")) == []
    await pair.close()


async def test_no_script_is_cut_in_two_by_a_slot_that_moves(nodes: list[RedisServer]) -> None:
    pair = pair_on(f"{cluster_url(nodes)}?connect_timeout=1", NAMESPACE)
    await pair.open()
    await pair.backend.put([a_job() for _ in range(3)])
    first, *held = await received(pair, "s", 3)
    await pair.backend.finish([succeed(first)])  # all that the script names is there now
    source = owner(nodes, NAMESPACE)
    target = next(node for node in nodes if node is not source)
    with begun_to_move(nodes, slot_of(NAMESPACE), source, target, [f"{{{NAMESPACE}}}:claims:s"]):
        before = client_of(source).hgetall(f"{{{NAMESPACE}}}:heads")
        with pytest.raises(ResultBackendUnavailable):
            await pair.backend.finish([succeed(claim) for claim in held])
        assert client_of(source).hgetall(f"{{{NAMESPACE}}}:heads") == before
    answers, _ = await again(lambda: pair.backend.finish([succeed(claim) for claim in held]))
    assert all(answer.accepted for answer in answers)
    check(client_of(target), NAMESPACE)
    await pair.close()


async def test_a_cluster_is_named_as_one(nodes: list[RedisServer]) -> None:
    with pytest.raises(ConfigurationError, match="cluster"):
        await pair_on(owner(nodes, NAMESPACE).url, NAMESPACE).open()
    with pytest.raises(ConfigurationError):
        pair_on("redis+cluster://a:1,b:2/3", NAMESPACE)
