"""``shards=n``: where things are, and what happens when a node is away or a slot moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from bananas import Bananas
from bananas_brokers.redis.shards import shard_of
from bananas_core.embed import run_worker
from bananas_core.errors import (
    ConfigurationError,
    ResultBackendUnavailable,
    TransportUnavailable,
)
from bananas_core.job import (
    JobState,
    OutcomeKind,
    ReadyKind,
    RenewMode,
    Retention,
    Session,
    Settled,
    Signal,
    SignalKind,
    Write,
)
from bananas_core.pair import Pair
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import a_job, a_scope, outcome
from integration.redis.cluster import cluster_url, move, owner, slot_of, three_nodes
from integration.redis.invariants import check
from integration.redis.support import (
    again,
    client_of,
    on_redis_only,
    pair_on,
    received,
    succeed,
)
from integration.servers import RedisServer

SHARDS = 3
NAMESPACE = "spread-1"
"""Its shards are on three nodes of a cluster, which a test below makes sure of."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with three_nodes(appendonly=True) as found:
        assert len({owner(found, f"{NAMESPACE}:{k}") for k in range(SHARDS)}) == SHARDS
        yield found


@pytest.fixture
async def pair(nodes: list[RedisServer]) -> AsyncIterator[Pair]:
    found = pair_on(
        f"{cluster_url(nodes)}?shards={SHARDS}&socket_timeout=2&connect_timeout=1", NAMESPACE
    )
    await found.open()
    yield found
    backend: Any = found.backend
    await again(backend.erase)
    await found.close()
    for node in nodes:
        assert client_of(node).keys("*") == []


def shard_with(job_id: str) -> int:
    return shard_of(job_id, SHARDS)


class Load:
    """Puts jobs and runs them, whatever fails; counts what was confirmed."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.confirmed: set[str] = set()
        self.runs: dict[str, int] = {}
        self.stop = asyncio.Event()
        self.failures = 0

    async def run(self) -> None:
        pairs = [pair_on(self._url, NAMESPACE) for _ in range(2)]
        for pair in pairs:
            await pair.open()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._put(pairs[0]))
            for n in range(2):
                group.create_task(self._work(pairs[1], f"load-{n}"))
        for pair in pairs:
            await pair.close()

    async def _put(self, pair: Pair) -> None:
        while not self.stop.is_set():
            puts = [a_job(max_attempts=99) for _ in range(20)]
            await self._insist(lambda p=puts: pair.backend.put(p))
            self.confirmed |= {put.id for put in puts}
            await asyncio.sleep(0.01)

    async def _work(self, pair: Pair, session: str) -> None:
        """Until everything that was confirmed has run."""
        who = Session(id=session, name="load")
        while not (self.stop.is_set() and self.confirmed <= set(self.runs)):
            try:
                claims = await received(pair, session, 30, 0.2)
                await pair.backend.renew(who, [], mode=RenewMode.UPDATE)
                await pair.backend.due(100)
            except (TransportUnavailable, ResultBackendUnavailable):
                self.failures += 1
                continue
            answers, _ = await self._insist(
                lambda c=claims: pair.backend.finish([succeed(claim) for claim in c])
            )
            for answer in answers:
                assert answer.accepted, answer
                self.runs[answer.id] = self.runs.get(answer.id, 0) + 1
            # What was claimed by a call whose answer got lost is handed back.
            await self._insist(lambda: pair.backend.renew(who, [], mode=RenewMode.ENDED))

    async def _insist(self, call: Any) -> Any:
        async def tried() -> Any:
            try:
                return [await call()]
            except (ResultBackendUnavailable, TransportUnavailable):
                self.failures += 1
                return None

        return (await eventually(tried, 20.0))[0]


async def loaded(nodes: list[RedisServer], harm: Any) -> Load:
    """Load while ``harm`` is done, and until all is done after it."""
    load = Load(f"{cluster_url(nodes)}?shards={SHARDS}&socket_timeout=2&connect_timeout=1")
    running = asyncio.create_task(load.run())
    await eventually(lambda: running.done() or len(load.runs) > 200, 20.0)
    await harm(load)
    before = len(load.runs)
    await eventually(lambda: running.done() or len(load.runs) > before + 200, 30.0)
    load.stop.set()
    async with asyncio.timeout(40.0):
        await running
    assert load.confirmed <= set(load.runs)
    assert set(load.runs.values()) == {1}
    return load


async def everything_is_done(pair: Pair, load: Load) -> None:
    found = await again(lambda: pair.backend.count(["state"]))
    counts = {c.group: c.count for c in found}
    assert counts[("completed",)] >= len(load.confirmed)
    assert set(counts) == {("completed",)}


async def test_a_node_that_restarts_under_load_loses_nothing(
    nodes: list[RedisServer], pair: Pair
) -> None:
    name = f"{NAMESPACE}:0"
    node = owner(nodes, name)

    async def restart(load: Load) -> None:
        await asyncio.to_thread(node.kill)
        before = load.failures
        await eventually(lambda: load.failures > before, 10.0)
        await asyncio.to_thread(node.start)

    load = await loaded(nodes, restart)
    await everything_is_done(pair, load)
    for k in range(SHARDS):
        check(client_of(owner(nodes, f"{NAMESPACE}:{k}")), f"{NAMESPACE}:{k}")


async def test_the_other_shards_go_on_while_one_is_away(
    nodes: list[RedisServer], pair: Pair
) -> None:
    """A silent node, which is worse than none."""
    puts = [a_job(max_attempts=9) for _ in range(60)]
    nodes_of_a_workflow = [a_job(workflow="w") for _ in range(30)]
    await pair.backend.put([*puts, *nodes_of_a_workflow])
    held = await received(pair, "s", 30)
    assert {shard_with(claim.id) for claim in held} == {0, 1, 2}
    away = owner(nodes, f"{NAMESPACE}:1")
    away.pause()
    try:
        there = [claim for claim in held if shard_with(claim.id) != 1]
        with pytest.raises(ResultBackendUnavailable):
            await pair.backend.finish([succeed(claim) for claim in held])
        answers, _ = await pair.backend.finish([succeed(claim) for claim in there])
        assert all(answer.accepted for answer in answers)
        got: set[str] = set()
        while more := await received(pair, "s", 20):
            got |= {claim.id for claim in more}
        everything = {put.id for put in [*puts, *nodes_of_a_workflow]} - {c.id for c in held}
        assert got == {job_id for job_id in everything if shard_with(job_id) != 1}
    finally:
        away.resume()
    answers, _ = await again(lambda: pair.backend.finish([succeed(claim) for claim in held]))
    assert all(answer.accepted for answer in answers)
    rest: set[str] = set()

    async def all_there() -> bool:
        try:
            rest.update(claim.id for claim in await received(pair, "s", 20))
        except TransportUnavailable:
            return False
        return got | rest == everything

    await eventually(all_there, 10.0)


async def test_follow_ups_of_a_call_that_failed_are_told_by_due(
    nodes: list[RedisServer], pair: Pair
) -> None:
    puts = [a_job(workflow="w") for _ in range(30)]
    await pair.backend.put(puts)
    claims = await received(pair, "s", 30)
    away = owner(nodes, f"{NAMESPACE}:1")
    away.pause()
    try:
        with pytest.raises(ResultBackendUnavailable):
            await pair.backend.finish([succeed(claim) for claim in claims])
        ready, _ = await pair.backend.due(100)
    finally:
        away.resume()
    told = {item.id for item in ready if item.kind is ReadyKind.FOLLOW}
    assert told == {put.id for put in puts if shard_with(put.id) != 1}
    await again(lambda: pair.backend.now())


async def test_a_slot_that_moves_under_load_loses_nothing(
    nodes: list[RedisServer], pair: Pair
) -> None:
    # The last test of the cluster: the slot does not go back.
    name = f"{NAMESPACE}:2"
    source = owner(nodes, name)
    target = next(node for node in nodes if node is not source)

    async def reshard(load: Load) -> None:
        await asyncio.to_thread(move, nodes, slot_of(name), source, target)

    load = await loaded(nodes, reshard)
    await everything_is_done(pair, load)
    check(client_of(target), name)
    assert list(client_of(source).scan_iter(match=f"{{{name}}}:*")) == []


@on_redis_only
async def test_another_number_of_shards_is_refused(redis_url: str, namespace: str) -> None:
    async def refused(number: int, there: int) -> None:
        for driver in vars(pair_on(f"{redis_url}?shards={number}", namespace)).values():
            if hasattr(driver, "open") and hasattr(driver, "renew"):
                with pytest.raises(ConfigurationError, match=f"shards={there} "):
                    await driver.open()

    with redis.Redis.from_url(redis_url) as client:
        pair = pair_on(f"{redis_url}?shards=2", namespace)
        await pair.open()
        await pair.close()
        for number in (1, 3):
            await refused(number, 2)
        backend: Any = pair.backend
        await backend.open()
        await backend.erase()
        await pair.close()
        assert list(client.scan_iter(match=f"{{{namespace}*")) == []
        plain = pair_on(redis_url, namespace)
        await plain.open()
        await plain.close()
        await refused(2, 1)
        # As one that was written before there were shards.
        client.hdel(f"{{{namespace}}}:meta", "shards")
        await refused(2, 1)
        await plain.open()
        await plain.close()


@on_redis_only
async def test_nodes_go_with_a_workflow_of_another_shard(redis_url: str, namespace: str) -> None:
    """And nothing is left but the form of the namespace."""
    clock = ManualClock()
    pair = pair_on(f"{redis_url}?shards=3", namespace, clock)
    await pair.open()
    backend, root = pair.backend, a_scope()
    puts = [a_job(workflow=root.id) for _ in range(30)]
    await backend.put([root, *puts])
    await backend.cas([Write(key=f"job/{put.id}/x", value=b"x") for put in puts])
    claims = await received(pair, "s", 100)
    await backend.finish([outcome(claim, OutcomeKind.COMPLETED) for claim in claims])
    assert await received(pair, "s") == []
    settled = [Settled(id=put.id, gen=1, followed=True) for put in [root, *puts]]
    await backend.put([], settled=settled)
    none = Retention(completed=0.0, events=0.0)
    clock.advance(5000.0)
    assert [await backend.prune(none, 1000) for _ in range(3)] == [0, 0, 0]
    await backend.signal([Signal(id=root.id, kind=SignalKind.END, state=JobState.COMPLETED)])
    await backend.put([], settled=settled[:1])
    clock.advance(5000.0)
    with redis.Redis.from_url(redis_url) as client:
        for k in range(SHARDS):
            check(client, f"{namespace}:{k}")
        assert sum([await backend.prune(none, 7) for _ in range(9)]) == 31
        await backend.renew(Session(id="s", name="s"), [], mode=RenewMode.ENDED)
        await backend.prune(none, 7)
        left = {key.decode().partition("}:")[2] for key in client.scan_iter(f"{{{namespace}*")}
        assert left - {"wake:default"} == {"meta"}
    await pair.close()


@on_redis_only
async def test_a_plain_client_finds_its_result_by_the_rule(redis_url: str, namespace: str) -> None:
    """Into any inbox; the result is where CRC-32 of the id says."""
    app = Bananas(redis_url + "?shards=3", namespace=namespace)

    @app.task(name="shop.add")
    async def add(a: int, b: int) -> int:
        return a + b

    stop = asyncio.Event()
    with redis.Redis.from_url(redis_url) as client:
        for k in range(SHARDS):
            for n in range(3):
                message = {
                    "v": 1,
                    "id": f"order-{k}-{n}",
                    "name": "shop.add",
                    "payload": {"a": k, "b": n},
                    "created_at": "2026-11-24T16:00:00Z",
                }
                client.rpush(f"{{{namespace}:{k}}}:inbox", json.dumps(message))
        async with app:
            worker = asyncio.create_task(run_worker(app, routing_keys=["default"], stop=stop))
            for k in range(SHARDS):
                for n in range(3):
                    job = f"order-{k}-{n}"
                    results = f"{{{namespace}:{shard_with(job)}}}:results"
                    found = await eventually(lambda r=results, j=job: client.hget(r, j), 10.0)
                    assert json.loads(found) == {"value": k + n}
            stop.set()
            await worker
        for k in range(SHARDS):
            check(client, f"{namespace}:{k}")
