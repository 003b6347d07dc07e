"""What goes wrong with a server, and what must hold all the same."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from bananas_core.errors import (
    ConfigurationError,
    ResultBackendError,
    ResultBackendUnavailable,
    TransportUnavailable,
)
from bananas_core.job import JobState, OutcomeKind, RenewMode, Session, Signal, SignalKind
from bananas_core.pair import Pair
from bananas_core.testing.conformance.support import a_job, outcome
from integration.postgres.invariants import check
from integration.postgres.support import again, client_of, pair_on, received, succeed
from integration.servers import PostgresServer
from integration.servers.base import HOST, free_port
from integration.servers.need import need

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bananas'"


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    need(PostgresServer)
    with PostgresServer() as found:
        yield found


@pytest.fixture
def namespace() -> str:
    return f"faults-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def pair(own_server: PostgresServer, namespace: str) -> AsyncIterator[Pair]:
    found = pair_on(own_server.url, namespace)
    await found.open()
    yield found
    await found.close()


async def test_all_goes_on_after_a_crash_of_the_server(
    own_server: PostgresServer, pair: Pair, namespace: str
) -> None:
    puts = [a_job() for _ in range(30)]
    await pair.backend.put(puts)
    claims = await received(pair, "s", 10)
    await pair.backend.finish([succeed(claims[0])])
    own_server.kill()
    with pytest.raises(ResultBackendUnavailable):
        await pair.backend.put([a_job()])
    with pytest.raises(TransportUnavailable):
        await received(pair, "s")
    own_server.start()
    begun = time.monotonic()
    ((answer,), _) = await again(lambda: pair.backend.finish([succeed(claims[1])]))
    more = await again(lambda: received(pair, "s", 100))
    assert time.monotonic() - begun < 15.0
    assert answer.accepted
    assert {c.id for c in [*claims, *more]} == {put.id for put in puts}
    assert min(c.fence for c in more) > max(c.fence for c in claims)
    await check(own_server.url, namespace)


async def test_who_waits_outlives_a_restart(
    own_server: PostgresServer, pair: Pair, namespace: str
) -> None:
    await pair.backend.put([put := a_job("other")])
    ended = asyncio.create_task(pair.backend.wait([put.id], 30.0))
    got = asyncio.create_task(pair.transport.receive_claimed("s", ["default"], 1, 30.0))
    await asyncio.wait({ended, got}, timeout=0.3)
    await asyncio.to_thread(own_server.restart, kill=True)
    other = pair_on(own_server.url, namespace)
    await other.open()
    (item,) = await again(lambda: other.transport.receive_claimed("t", ["other"], 1, 5.0))
    await other.backend.finish([succeed(item.verdict.claim)])
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


async def test_killed_connections_cost_one_error_each(
    own_server: PostgresServer, pair: Pair
) -> None:
    waiting = asyncio.create_task(pair.backend.wait(["nobody"], 30.0))
    idle = asyncio.create_task(pair.transport.receive_claimed("s", ["default"], 1, 30.0))
    await asyncio.wait({waiting, idle}, timeout=0.3)
    with client_of(own_server) as client:
        for _ in range(3):
            client.execute(KILL)
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


async def test_a_silent_server_is_given_up(own_server: PostgresServer, namespace: str) -> None:
    pair = pair_on(own_server.url + "?timeout=0.5&connect_timeout=0.5", namespace)
    await pair.open()
    own_server.pause()
    try:
        begun = time.monotonic()
        with pytest.raises(ResultBackendUnavailable):
            await pair.backend.now()
        assert time.monotonic() - begun < 5.0
    finally:
        own_server.resume()
    await again(lambda: pair.backend.now())
    await pair.close()


async def test_opening_without_a_server_fails_in_time(namespace: str) -> None:
    pair = pair_on(f"postgresql://me:secret@{HOST}:{free_port()}/jobs", namespace)
    begun = time.monotonic()
    with pytest.raises(ResultBackendUnavailable) as caught:
        await pair.open()
    assert time.monotonic() - begun < 10.0
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is not None


async def test_one_that_stops_in_a_transaction_does_not_hold_others_up(
    own_server: PostgresServer, pair: Pair, namespace: str
) -> None:
    """As a worker that gets SIGSTOP there, with the lock of `due` and of a record."""
    await pair.backend.put([put := a_job()])
    other = pair_on(own_server.url, namespace)
    await other.open()
    database = other.backend._store.database  # type: ignore[attr-defined]
    stopped = await database.connection()
    await stopped.execute("BEGIN")
    await stopped.execute("SELECT 1 FROM bananas.namespaces FOR UPDATE")
    await stopped.execute("SELECT 1 FROM bananas.jobs FOR UPDATE")
    begun = time.monotonic()
    await again(lambda: pair.backend.due(10))
    wish = Signal(id=put.id, kind=SignalKind.CANCEL)
    ((answer,), _) = await again(lambda: pair.backend.signal([wish]))
    assert answer.done
    assert time.monotonic() - begun < 12.0
    stopped.terminate()
    await other.close()


class Forgetful:
    """Does every call, and now and then loses its answer with the connection."""

    def __init__(self, store: Any, rng: random.Random) -> None:
        self._database, self.lost, self._rng = store.database, 0, rng
        self._alone = self._database._alone
        self._database._alone = self.alone

    async def alone(self, once: Any) -> Any:
        answer = await self._alone(once)
        if self._rng.random() < 0.35:
            self.lost += 1
            raise asyncpg.InterfaceError("the answer was lost")
        return answer


@pytest.mark.parametrize("seed", range(3))
async def test_repeating_after_lost_answers_does_everything_once(
    own_server: PostgresServer, pair: Pair, seed: int, namespace: str
) -> None:
    rng = random.Random(seed)
    forgetful = Forgetful(pair.backend._store, rng)  # type: ignore[attr-defined]
    puts = [a_job(max_attempts=100, priority=rng.randrange(3) * 40) for _ in range(40)]
    puts += [a_job(max_attempts=100, tags=("a",)) for _ in range(10)]
    await again(lambda: pair.backend.put(puts))
    done: set[str] = set()
    for turn in range(200):
        session = f"s{turn}"
        claims = []
        try:
            claims = await received(pair, session, 10)
        except TransportUnavailable:
            pass  # the claims are orphans of the session now
        outcomes = []
        for claim in claims:
            kind = rng.choice([OutcomeKind.COMPLETED] * 3 + [OutcomeKind.RETRY])
            outcomes.append(outcome(claim, kind, result=b"1" if kind == "completed" else None))
        answers, _ = await again(lambda o=outcomes: pair.backend.finish(o))
        assert all(answer.accepted for answer in answers)
        done |= {o.id for o in outcomes if o.kind is OutcomeKind.COMPLETED}
        who = Session(id=session, name="forgetful")
        await again(lambda w=who: pair.backend.renew(w, [], mode=RenewMode.ENDED))
        if len(done) == len(puts):
            break
    assert done == {put.id for put in puts}
    assert forgetful.lost > 10
    await check(own_server.url, namespace)


async def test_deadlocks_are_repeated_by_the_driver(own_server: PostgresServer, pair: Pair) -> None:
    """Somebody else's transaction, which takes records in its own order."""
    puts = sorted((a_job() for _ in range(2)), key=lambda put: put.id)
    await pair.backend.put(puts)
    lock = "SELECT 1 FROM bananas.jobs WHERE id = $1 FOR UPDATE"
    stranger: Any = await asyncpg.connect(own_server.url)
    await stranger.execute("SET deadlock_timeout = '10s'")  # so that we are the one to give way
    await stranger.execute("BEGIN")
    await stranger.execute(lock, puts[1].id)
    wishes = [Signal(id=put.id, kind=SignalKind.CANCEL) for put in puts]
    ours = asyncio.create_task(pair.backend.signal(wishes))
    with client_of(own_server) as client:
        while not client.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            assert not ours.done()
            await asyncio.sleep(0.01)
    theirs = asyncio.create_task(stranger.execute(lock, puts[0].id))
    await theirs
    await stranger.execute("ROLLBACK")
    answers, _ = await ours
    assert all(answer.done for answer in answers)
    await stranger.close()


async def test_a_newer_schema_is_refused(own_server: PostgresServer, pair: Pair) -> None:
    with client_of(own_server) as client:
        client.execute("UPDATE bananas.meta SET value = 999")
        with pytest.raises(ConfigurationError, match="upgrade"):
            await pair_on(own_server.url, "newer").open()
        client.execute("UPDATE bananas.meta SET value = 1")


async def test_tables_are_made_once_by_many(own_server: PostgresServer) -> None:
    pairs = [pair_on(f"{own_server.url}?schema=many&pool_size={n + 1}", "n") for n in range(8)]
    await asyncio.gather(*(pair.open() for pair in pairs))
    await pairs[0].backend.put([put := a_job()])
    (claim,) = await received(pairs[7], "s")
    assert claim.id == put.id
    for pair in pairs:
        await pair.close()


async def test_what_is_no_text_here_is_refused(pair: Pair) -> None:
    for odd in ("a\0b", "a\ud800b"):
        with pytest.raises(ResultBackendError) as caught:
            await pair.backend.put([replace(a_job(), id=odd)])
        assert not isinstance(caught.value, ResultBackendUnavailable)
    await pair.backend.put([a_job()])


async def test_doctor_hears_of_what_may_lose_jobs(namespace: str) -> None:
    need(PostgresServer)
    settings = {"full_page_writes": "off", "synchronous_commit": "off"}
    unsafe = ["fsync is off", "full_page_writes is off", "synchronous_commit is off", "fail-over"]
    with PostgresServer(settings=settings) as weak:
        for options, words in (
            ("", unsafe),
            ("?durable=false", ["durable=false"]),
            ("?pooler=true", ["pooler"]),
        ):
            pair: Any = pair_on(weak.url + options, namespace)
            await pair.open()
            text = "\n".join(pair.backend.warnings())
            assert [word for word in words if word not in text] == []
            found = await pair.backend._store.select("SELECT current_setting('synchronous_commit')")
            assert found[0][0] == ("off" if "durable" in options else "on")
            await pair.close()
