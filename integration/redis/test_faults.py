"""What goes wrong with a server, and what must hold all the same."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import exceptions

from bananas_brokers.redis.scripts import Script
from bananas_core.alike import Alike
from bananas_core.errors import (
    ConfigurationError,
    ResultBackendError,
    ResultBackendUnavailable,
    TransportError,
    TransportUnavailable,
)
from bananas_core.job import JobState, OutcomeKind, RenewMode, Session, Signal, SignalKind, Write
from bananas_core.pair import Pair
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import a_job, outcome
from bananas_core.transport import Outgoing
from integration.redis.invariants import check
from integration.redis.support import again, client_of, pair_on, received, succeed
from integration.servers import RedisServer
from integration.servers.base import HOST, free_port

NAMESPACE = "faults"


@pytest.fixture
def server(kind: type[RedisServer]) -> Iterator[RedisServer]:
    with kind(appendfsync="always") as found:
        yield found


@pytest.fixture
async def pair(server: RedisServer) -> AsyncIterator[Pair]:
    found = pair_on(server.url + "?durable=true", NAMESPACE)
    await found.open()
    yield found
    await found.close()


async def test_forgotten_scripts_are_sent_again(server: RedisServer, pair: Pair) -> None:
    client = client_of(server)
    client.script_flush()
    await pair.backend.put([put := a_job()])
    client.script_flush()
    (claim,) = await received(pair, "s")
    client.script_flush()
    ((answer,), _) = await pair.backend.finish([succeed(claim)])
    assert (claim.id, answer.accepted) == (put.id, True)
    check(client, NAMESPACE)


async def test_all_goes_on_after_a_crash_of_the_server(server: RedisServer, pair: Pair) -> None:
    puts = [a_job() for _ in range(30)]
    await pair.backend.put(puts)
    claims = await received(pair, "s", 10)
    await pair.backend.finish([succeed(claims[0])])
    server.kill()
    with pytest.raises(ResultBackendUnavailable):
        await pair.backend.put([a_job()])
    with pytest.raises(TransportUnavailable):
        await received(pair, "s")
    server.start()
    ((answer,), _) = await again(lambda: pair.backend.finish([succeed(claims[1])]))
    assert answer.accepted
    more = await again(lambda: received(pair, "s", 100))
    assert {c.id for c in [*claims, *more]} == {put.id for put in puts}
    assert min(c.fence for c in more) > max(c.fence for c in claims)
    check(client_of(server), NAMESPACE)


async def test_who_waits_outlives_a_restart(server: RedisServer, pair: Pair) -> None:
    await pair.backend.put([put := a_job("other")])
    ended = asyncio.create_task(pair.backend.wait([put.id], 30.0))
    got = asyncio.create_task(pair.transport.receive_claimed("s", ["default"], 1, 30.0))
    await asyncio.wait({ended, got}, timeout=0.3)
    server.kill()
    server.start()
    other = pair_on(server.url, NAMESPACE)
    await other.open()
    (claim,) = [
        item.verdict.claim
        for item in await other.transport.receive_claimed("t", ["other"], 1, 0)
        if item.verdict is not None
    ]
    assert claim is not None
    await other.backend.finish([succeed(claim)])
    await other.backend.put([late := a_job()])
    # An error is an answer too: whoever waits asks again.
    results = await asyncio.gather(ended, got, return_exceptions=True)
    for result in results:
        assert isinstance(result, (list, ResultBackendUnavailable, TransportUnavailable)), result
    (job,) = await again(lambda: pair.backend.wait([put.id], 5.0))
    assert job.state is JobState.COMPLETED
    (there,) = await again(lambda: pair.backend.get([late.id]))
    assert there.state in (JobState.PENDING, JobState.PROCESSING)
    await other.close()


async def test_killed_connections_cost_one_error_each(server: RedisServer, pair: Pair) -> None:
    waiting = asyncio.create_task(pair.backend.wait(["nobody"], 30.0))
    idle = asyncio.create_task(pair.transport.receive_claimed("s", ["default"], 1, 30.0))
    await asyncio.wait({waiting, idle}, timeout=0.3)
    client = client_of(server)
    for _ in range(3):
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
        await again(lambda: pair.backend.now())
    put = a_job()
    await again(lambda: pair.backend.put([put]))
    try:
        (item,) = await idle
        claim: Any = item.verdict and item.verdict.claim
    except TransportUnavailable:
        (claim,) = await again(lambda: received(pair, "s", timeout=5.0))
    assert claim.id == put.id
    waiting.cancel()
    check(client, NAMESPACE)


async def test_a_full_server_takes_no_jobs_but_lets_workers_go_on(
    server: RedisServer, pair: Pair
) -> None:
    puts = [a_job(max_attempts=5) for _ in range(20)]
    await pair.backend.put(puts)
    await pair.backend.put([a_job(delay=0.05)])
    await pair.transport.send([Outgoing(body=b"x", queue="foreign") for _ in range(3)])
    client = client_of(server)
    client.config_set("maxmemory", "1mb")
    for refused in (a_job(), a_job(tags=("a",)), a_job(delay=10.0)):
        with pytest.raises(ResultBackendError, match="maxmemory") as caught:
            await pair.backend.put([refused])
        assert not isinstance(caught.value, ResultBackendUnavailable)
        assert caught.value.__cause__ is not None
        assert await pair.backend.get([refused.id]) == [None]
    with pytest.raises(TransportError, match="maxmemory"):
        await pair.transport.send([Outgoing(body=b"x", queue="foreign")])
    deliveries = await pair.transport.receive(["foreign"], 3, 0.0)
    assert len(deliveries) == 3
    assert await pair.transport.ack(deliveries[:1]) == [True]
    assert await pair.transport.release(deliveries[1:2]) == [True]
    assert await pair.transport.bury(deliveries[2:], "bad") == [True]
    with pytest.raises(ResultBackendError, match="maxmemory"):
        await pair.backend.cas([Write(key="job/x/payload/0/0000", value=b"x")])
    (answer,) = await pair.backend.cas([Write(key="job/x/result/1/0000", value=b"x")])
    assert answer.done
    claims = await received(pair, "s", 20)
    assert len(claims) == 20
    who = Session(id="s", name="full")
    assert (await pair.backend.renew(who, [], mode=RenewMode.UPDATE)).lost == ()
    answers, _ = await pair.backend.finish([succeed(claim, b"x" * 1000) for claim in claims[:10]])
    assert all(answer.accepted for answer in answers)
    (kept,) = await pair.backend.get([claims[0].id])
    assert kept is not None
    assert kept.result == b"x" * 1000
    answers, _ = await pair.backend.finish(
        [outcome(claim, OutcomeKind.RETRY) for claim in claims[10:]]
    )
    assert all(answer.accepted for answer in answers)

    async def due() -> bool:
        await pair.backend.due(10)
        return len(await received(pair, "s", 1)) > 0

    await eventually(due, 5.0)
    client.config_set("maxmemory", "0")
    await pair.backend.put([a_job()])
    check(client, NAMESPACE)


async def test_a_silent_server_is_given_up(server: RedisServer) -> None:
    pair = pair_on(server.url + "?socket_timeout=0.5", NAMESPACE)
    await pair.open()
    server.pause()
    try:
        begun = time.monotonic()
        with pytest.raises(ResultBackendUnavailable):
            await pair.backend.now()
        assert time.monotonic() - begun < 5.0
    finally:
        server.resume()
    await again(lambda: pair.backend.now())
    await pair.close()


async def test_opening_without_a_server_fails_in_time() -> None:
    pair = pair_on(f"redis://me:secret@{HOST}:{free_port()}", NAMESPACE)
    begun = time.monotonic()
    with pytest.raises(ResultBackendUnavailable) as caught:
        await pair.open()
    assert time.monotonic() - begun < 10.0
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is not None


class Forgetful:
    """Does every script, and now and then loses its answer with the connection."""

    def __init__(self, store: Any, rng: random.Random) -> None:
        self._write, self.lost = store.wire.write, 0
        self._rng = rng
        store.wire.write = self.write

    def write(self, command: bytes) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self._write(command)
        if b"EVALSHA" not in command[:20] or Script("load").sha in command:
            return answer
        return asyncio.ensure_future(self._lose(answer)) if self._rng.random() < 0.3 else answer

    async def _lose(self, answer: asyncio.Future[Any]) -> Any:
        await answer
        self.lost += 1
        raise exceptions.ConnectionError("the answer was lost")


@pytest.mark.parametrize("seed", range(3))
async def test_repeating_after_lost_answers_does_everything_once(
    server: RedisServer, pair: Pair, seed: int
) -> None:
    rng = random.Random(seed)
    forgetful = [Forgetful(driver.store, rng) for driver in (pair.backend, pair.transport)]  # type: ignore[attr-defined]
    puts = [a_job(max_attempts=100, priority=rng.randrange(3) * 40) for _ in range(40)]
    puts += [a_job(max_attempts=100, tags=("a",)) for _ in range(10)]
    await again(lambda: pair.backend.put(puts))
    for count in (1, 1, 1, 150):
        alike = [a_job(max_attempts=100) for _ in range(count)]
        ids, messages = [put.id for put in alike], [put.message for put in alike]
        same = Alike(a_job(max_attempts=100), ids, messages)
        answers = await again(lambda jobs=same: pair.backend.put(jobs))
        assert [answer.id for answer in answers] == ids
        puts += alike
    done: set[str] = set()
    for turn in range(200):
        session = f"s{turn}"
        claims = []
        try:
            claims = await received(pair, session, 30)
        except TransportUnavailable:
            pass  # the claims are orphans of the session now
        outcomes = []
        for claim in claims:
            kind = rng.choice([OutcomeKind.COMPLETED] * 3 + [OutcomeKind.RETRY])
            outcomes.append(outcome(claim, kind, result=b"1" if kind == "completed" else None))
        kept, _ = await again(lambda o=outcomes: pair.backend.finish(o))
        assert all(answer.accepted for answer in kept)
        done |= {o.id for o in outcomes if o.kind is OutcomeKind.COMPLETED}
        who = Session(id=session, name="forgetful")
        await again(lambda w=who: pair.backend.renew(w, [], mode=RenewMode.ENDED))
        if len(done) == len(puts):
            break
    assert done == {put.id for put in puts}
    assert sum(one.lost for one in forgetful) > 10
    check(client_of(server), NAMESPACE)


async def test_a_cancel_is_done_once_though_repeated(server: RedisServer, pair: Pair) -> None:
    forgetful = Forgetful(pair.backend.store, random.Random(1))  # type: ignore[attr-defined]
    puts = [a_job() for _ in range(20)]
    await again(lambda: pair.backend.put(puts))
    wishes = [Signal(id=put.id, kind=SignalKind.CANCEL) for put in puts]
    for _ in range(3):
        answers, _ = await again(lambda: pair.backend.signal(wishes))
        assert all(answer.done for answer in answers)
    assert forgetful.lost
    check(client_of(server), NAMESPACE)


async def test_a_newer_schema_is_refused(server: RedisServer) -> None:
    client_of(server).hset("{newer}:meta", "schema", 999)
    with pytest.raises(ConfigurationError, match="newer"):
        await pair_on(server.url, "newer").open()


async def test_durable_is_refused_where_the_server_is_not(redis_url: str) -> None:
    with pytest.raises(ConfigurationError, match="appendonly"):
        await pair_on(redis_url + "?durable=true", NAMESPACE).open()


async def test_a_server_that_reads_its_data_is_not_refused_but_asked_again(
    kind: type[RedisServer],
) -> None:
    """Until it has read them, it says that it had no append-only file."""
    slowly = {"key-load-delay": "500"}
    with kind(appendfsync="always", settings=slowly) as server:
        with client_of(server).pipeline(transaction=False) as pipe:
            for number in range(4000):
                pipe.set(f"other:{number}", b"x" * 100)
            pipe.execute()
        server.kill()
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        said: set[str] = set()
        while True:
            pair = pair_on(server.url + "?durable=true", NAMESPACE)
            try:
                await pair.open()
            except (ResultBackendUnavailable, TransportUnavailable) as error:
                said.add(str(error).partition("/0: ")[2])
            else:
                break
            await asyncio.sleep(0.05)
        assert "the server is loading its data; try again" in said
        await pair.close()
        await starting


async def test_doctor_hears_of_what_may_lose_jobs(server: RedisServer, pair: Pair) -> None:
    warn: Any = pair.backend
    assert [w for w in warn.warnings() if "append" in w or "policy" in w] == []
    client = client_of(server)
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("appendfsync", "everysec")
    backend: Any = pair_on(server.url, NAMESPACE).backend
    await backend.open()
    text = "\n".join(backend.warnings())
    await backend.close()
    for word in ("allkeys-lru", "noeviction", "everysec", "maxmemory is not set"):
        assert word in text


async def test_the_invariants_notice_what_is_wrong(server: RedisServer, pair: Pair) -> None:
    client = client_of(server)
    await pair.backend.put([a_job() for _ in range(3)])
    (claim,) = await received(pair, "s", 1)
    check(client, NAMESPACE)
    for harm in (
        lambda c: c.lpop("{faults}:q:default:50"),
        lambda c: c.hincrby("{faults}:claims:s", f"{claim.fence}#", 1),
        lambda c: c.hset("{faults}:meta", "finals", 1),
        lambda c: c.zadd("{faults}:due", {claim.id: 1}),
        lambda c: c.hdel("{faults}:messages", claim.id),
    ):
        saved = {key: client.dump(key) for key in client.scan_iter(match="{faults}:*")}
        harm(client)
        with pytest.raises(AssertionError):
            check(client, NAMESPACE)
        for key in client.scan_iter(match="{faults}:*"):
            client.delete(key)
        for key, value in saved.items():
            client.restore(key, 0, value)
        check(client, NAMESPACE)
