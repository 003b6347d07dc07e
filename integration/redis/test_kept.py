"""What is only confirmed once a replica, or the disk, has it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import exceptions

from bananas import Bananas
from bananas.testing import drain
from bananas_core.errors import (
    ConfigurationError,
    ResultBackendUnavailable,
    TransportUnavailable,
)
from bananas_core.job import Hint, Signal, SignalKind, VerdictKind, Write
from bananas_core.pair import Pair
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import a_job, outcome
from bananas_core.transport import Outgoing
from integration.redis.support import again, client_of, pair_on, received
from integration.servers import RedisServer, ValkeyServer
from integration.servers.need import need

NAMESPACE = "kept"
SETTINGS = {"repl-diskless-sync-delay": "0"}


@pytest.fixture
def master(kind: type[RedisServer]) -> Iterator[RedisServer]:
    with kind(appendonly=False, settings=SETTINGS) as found:
        yield found


@pytest.fixture
def replica(kind: type[RedisServer], master: RedisServer) -> Iterator[RedisServer]:
    with kind(appendonly=False, settings=SETTINGS, replicaof=master) as found:
        yield found
        found.resume()


@pytest.fixture
async def pair(master: RedisServer, replica: RedisServer) -> AsyncIterator[Pair]:
    """Of a master whose replica follows; it is not waited for longer than half a second."""
    client = client_of(master)
    await eventually(lambda: client.set("x", 1) and client.wait(1, 100) == 1, 20.0)
    found = pair_on(master.url + "?wait_replicas=1&socket_timeout=1", NAMESPACE)
    await found.open()
    yield found
    await found.close()


async def test_what_depends_on_replicas_waits_for_them(replica: RedisServer, pair: Pair) -> None:
    backend: Any = pair.backend
    puts = [a_job(), a_job()]
    await again(lambda: backend.put(puts))
    calls = {
        "put": lambda: backend.put([a_job()]),
        "signal": lambda: backend.signal([Signal(id=puts[0].id, kind=SignalKind.CANCEL)]),
        "payload": lambda: backend.cas([Write(key="job/x/payload/0/0000", value=b"x")]),
        "document": lambda: backend.cas([Write(key="unique/x", value=b"x")]),
        "send": lambda: pair.transport.send([Outgoing(body=b"x")]),
    }
    replica.pause()
    for call in calls.values():
        with pytest.raises((ResultBackendUnavailable, TransportUnavailable), match="0 of 1"):
            await call()
    # Jobs that were accepted go on all the same.
    claims = await received(pair, "s", 1)
    ((answer,), _) = await backend.finish([outcome(claims[0], result=b"1")])
    assert answer.accepted
    await backend.cas([Write(key=f"job/{claims[0].id}/result/1/0000", value=b"x")])
    await backend.cas([Write(key="limit/x", value=b"x")])
    replica.resume()
    for call in calls.values():
        await again(call)


async def test_what_an_earlier_try_wrote_is_waited_for_too(
    replica: RedisServer, pair: Pair
) -> None:
    """Over a new connection also, on which the server counts no earlier write."""
    put = a_job()
    replica.pause()
    with pytest.raises(ResultBackendUnavailable, match="0 of 1"):
        await pair.backend.put([put])
    for _ in range(2):
        pair.backend.store.wire.drop(exceptions.ConnectionError("cut"))  # type: ignore[attr-defined]
        with pytest.raises(ResultBackendUnavailable, match="0 of 1"):
            await pair.backend.put([put])
    replica.resume()
    (answer,) = await again(lambda: pair.backend.put([put]))
    assert answer.kind == "exists"


async def test_a_lost_connection_confirms_nothing(pair: Pair) -> None:
    """The next one may lead to another master, which has replicas but not the write."""
    store = pair.backend.store  # type: ignore[attr-defined]

    async def write_and_lose() -> int:
        store.wire.drop(exceptions.ConnectionError("cut"))
        return 1

    with pytest.raises(ResultBackendUnavailable, match="connection was lost"):
        await store.kept(write_and_lose)


async def test_durable_claims_are_refused_where_they_can_not_be(kind: type[RedisServer]) -> None:
    for settings, reason in (
        ({"appendonly": "no"}, "appendonly no"),
        ({"appendfsync": "no"}, "appendfsync no"),
    ):
        with kind(settings=settings) as server:
            pair = pair_on(server.url + "?durable_claims=true", NAMESPACE)
            with pytest.raises(ConfigurationError, match=reason):
                await pair.open()


async def test_a_server_without_waitaof_must_sync_always(kind: type[RedisServer]) -> None:
    with kind(appendfsync="everysec") as server:
        pair = pair_on(server.url + "?durable_claims=true", NAMESPACE)
        if kind is ValkeyServer or version_of(server) >= (7, 2):
            await pair.open()
            await pair.close()
        else:
            with pytest.raises(ConfigurationError, match="WAITAOF"):
                await pair.open()
    with kind(appendfsync="always") as server:
        pair = pair_on(server.url + "?durable_claims=true", NAMESPACE)
        await pair.open()
        await claimed(pair)
        await pair.close()


async def test_a_claim_is_answered_once_it_is_synced() -> None:
    need(ValkeyServer)
    with ValkeyServer(appendfsync="everysec") as server:
        pair = pair_on(server.url + "?durable_claims=true&socket_timeout=4", NAMESPACE)
        await pair.open()
        await claimed(pair)
        client_of(server).config_set("appendfsync", "no")
        with pytest.raises(ResultBackendUnavailable, match="not on its disk"):
            await claimed(pair)
        client_of(server).config_set("appendfsync", "everysec")
        await claimed(pair)
        await pair.close()


async def test_jobs_of_another_broker_run_with_durable_claims() -> None:
    """Also those of clients that know nothing of the ledger."""
    need(ValkeyServer)
    foreign = b'{"v":1,"id":"f","name":"add","payload":{"a":1},"created_at":"2026-11-24T16:00:00Z"}'
    with ValkeyServer(appendfsync="everysec") as server:
        ledger = server.url + "?durable_claims=true"
        app = Bananas("memory://durable-claims", result_backend_url=ledger)

        @app.task(name="add")
        async def add(a: int) -> int:
            return a + 1

        async with app:
            jobs = await add.submit_many([{"a": n} for n in range(20)])
            await app.transport.send([Outgoing(body=foreign)])
            await drain(app)
            assert [await job.result(timeout=5) for job in jobs] == list(range(1, 21))
            assert await (await app.get_job("f")).result(timeout=5) == 2


async def claimed(pair: Pair) -> None:
    """A job whose message is at another broker, from put to claim."""
    put = a_job()
    await pair.backend.put([put])
    (verdict,) = await pair.backend.claim("s", [Hint(id=put.id, gen=1)])
    assert verdict.kind is VerdictKind.RUN


def version_of(server: RedisServer) -> tuple[int, ...]:
    return tuple(int(part) for part in server.info("server")["redis_version"].split(".")[:2])
