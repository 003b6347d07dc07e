"""What is left behind, and what plain clients may touch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import redis

from bananas import Bananas
from bananas.testing import drain
from bananas_brokers.redis.keys import Keys
from bananas_core.embed import run_worker
from bananas_core.job import (
    Job,
    JobState,
    OutcomeKind,
    Query,
    RenewMode,
    Retention,
    Session,
    Settled,
    Signal,
    SignalKind,
    Write,
)
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import ERROR, a_job, a_scope, outcome
from bananas_core.transport import Outgoing
from integration.redis.invariants import check
from integration.redis.support import QUEUE, pair_on, received

NONE = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0, events=0.0)
GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "accept.json"


async def test_nothing_is_left_of_jobs_whose_time_is_over(redis_url: str, namespace: str) -> None:
    clock = ManualClock()
    pair = pair_on(redis_url, namespace, clock)
    await pair.open()
    backend, transport = pair.backend, pair.transport
    root = a_scope()
    puts = [a_job(priority=n % 4 * 10) for n in range(40)]
    puts += [a_job(tags=("t",), delay=1.0), a_job(queue_timeout=1.0, priority=0), root]
    puts += [a_job(workflow=root.id), a_job(unique="k"), a_job(name="", quarantine=ERROR)]
    await backend.put(puts)
    await backend.signal([Signal(id=puts[1].id, kind=SignalKind.CANCEL)])
    await backend.signal([Signal(id=puts[2].id, kind=SignalKind.CHANGE, priority=99)])
    claims = await received(pair, "s", 100)
    keys = [f"job/{claims[0].id}/log", f"job/{claims[1].id}/log"]
    await backend.cas([Write(key=key, value=b"x") for key in keys])
    await backend.cas([Write(key="short", value=b"x", ttl=5.0)])
    kinds = [OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.RETRY, OutcomeKind.HANDBACK]
    await backend.finish(
        [outcome(c, kinds[n % 4], error=ERROR, result=b"1") for n, c in enumerate(claims)]
    )
    await transport.send([Outgoing(body=b"a", queue=QUEUE), Outgoing(body=b"b", queue=QUEUE)])
    first, second = (
        r.delivery
        for r in await transport.receive_claimed("s", [QUEUE], 100, 0)
        if r.delivery is not None
    )
    await transport.ack([first])
    await transport.bury([second], "bad")
    await transport.purge(QUEUE)
    for _ in range(20):
        clock.advance(2.0)
        await backend.renew(Session(id="s", name="keys"), [], mode=RenewMode.UPDATE)
        await backend.due(100)
        more = await received(pair, "s", 100)
        await backend.finish([outcome(c, result=b"1") for c in more])
    running = [j for j in await backend.get([p.id for p in puts]) if j and j.worker == "s"]
    await backend.finish([outcome(j) for j in running if j.state is JobState.PROCESSING])
    await backend.signal([Signal(id=root.id, kind=SignalKind.END, state=JobState.COMPLETED)])
    jobs = [job for job in await backend.get([put.id for put in puts]) if job is not None]
    assert {job.state for job in jobs} == {
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.CANCELLED,
        JobState.QUARANTINED,
    }
    await backend.put(
        [], settled=[Settled(id=j.id, gen=j.gen, followed=True) for j in jobs if j.followed]
    )
    await backend.renew(Session(id="s", name="keys"), [], mode=RenewMode.ENDED)
    with redis.Redis.from_url(redis_url) as client:
        check(client, namespace)
        clock.advance(1000.0)
        for _ in range(5):
            await backend.prune(NONE, 1000)
            clock.advance(1.0)
        check(client, namespace)
        left = {key.decode().partition(":")[2] for key in client.scan_iter(f"{{{namespace}}}:*")}
        left -= {"wake:default"}  # it goes by itself, a minute after the last job
        assert left == {"meta"}, left
        assert int(client.hget(Keys(namespace).meta, "finals") or 0) == 0
        assert (
            not client.exists(f"{{{namespace}}}:wake:default")
            or client.ttl(f"{{{namespace}}}:wake:default") > 0
        )
    await pair.close()


async def test_a_plain_client_submits_and_reads_the_result(redis_url: str, namespace: str) -> None:
    """With two commands that any client in any language has."""
    app = Bananas(redis_url, namespace=namespace)

    @app.task(name="shop.add")
    async def add(a: int, b: int) -> int:
        return a + b

    message = {
        "v": 1,
        "id": "from-elsewhere",
        "name": "shop.add",
        "payload": {"a": 2, "b": 3},
        "created_at": "2026-11-24T16:00:00Z",
        "priority": 70,
    }
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(f"{{{namespace}}}:inbox", json.dumps(message))
        client.rpush(f"{{{namespace}}}:inbox", b"\xff not json")
        stop, results = asyncio.Event(), Keys(namespace).results
        async with app:
            worker = asyncio.create_task(run_worker(app, routing_keys=["default"], stop=stop))
            found = await eventually(lambda: client.hget(results, "from-elsewhere"), 10.0)
            assert found == b'{"value":5}'
            assert await (await app.get_job("from-elsewhere")).result(timeout=5) == 5

            async def quarantined() -> Sequence[Job]:
                query = Query(states=(JobState.QUARANTINED,))
                return (await app.backend.query(query)).jobs

            (bad,) = await eventually(quarantined, 10.0)
            assert bad.message == b"\xff not json"
            stop.set()
            await worker
        check(client, namespace)
        assert client.llen(f"{{{namespace}}}:inbox") == 0


async def test_what_lies_in_the_inbox_counts(redis_url: str, namespace: str) -> None:
    """In the depth of its queue, and for `drain`."""
    app = Bananas(redis_url, namespace=namespace)
    ran: list[int] = []

    @app.task(name="note", routing_key="notes")
    async def note(number: int) -> None:
        ran.append(number)

    bodies = [
        json.dumps(
            {
                "v": 1,
                "id": f"n{number}",
                "name": "note",
                "payload": {"number": number},
                "routing_key": "notes" if number else "elsewhere",
                "created_at": "2026-11-24T16:00:00Z",
            }
        )
        for number in range(251)
    ]
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(Keys(namespace).inbox, *bodies, b"not json")
        async with app:
            for _ in range(2):
                found = await app.transport.stats(["notes", "default", "elsewhere", "nowhere"])
                assert [one.ready for one in found] == [250, 1, 1, 0]
            client.rpush(Keys(namespace).inbox, bodies[1])
            await drain(app)
            assert sorted(ran) == list(range(1, 251))
            (other,) = await app.transport.stats(["elsewhere"])
            assert other.ready == 1
        check(client, namespace)


async def test_golden_messages_come_through_the_inbox(redis_url: str, namespace: str) -> None:
    pair = pair_on(redis_url, namespace)
    await pair.open()
    vectors = json.loads(GOLDEN.read_text())["vectors"]
    bodies = [vector["text"].encode() for vector in vectors if "text" in vector]
    assert len(bodies) > 20
    with redis.Redis.from_url(redis_url) as client:
        client.rpush(Keys(namespace).inbox, *bodies)
    queues = sorted({json.loads(body).get("routing_key", "default") for body in bodies})
    found: list[bytes] = []

    async def all_there() -> bool:
        for item in await pair.transport.receive_claimed("s", queues, 100, 0.1):
            assert item.delivery is not None
            found.append(item.delivery.body)
            await pair.transport.ack([item.delivery])
        return len(found) >= len(bodies)

    await eventually(all_there, 10.0)
    assert sorted(found) == sorted(bodies)
    await pair.close()
