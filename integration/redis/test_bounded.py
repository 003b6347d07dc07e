"""The memory of a namespace is bounded: of jobs whose retention is over, nothing is left but
``meta``, which doesn't grow."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from bananas import Bananas, Retry, chord, current_job
from bananas.testing import drain
from bananas_brokers.redis.keys import Keys
from bananas_core.due import DueLoop
from bananas_core.job import JobState, OutcomeKind, RenewMode, Retention, Session
from bananas_core.pair import Pair
from bananas_core.settle import Sender
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.support import ERROR, a_job, outcome
from bananas_plugins.rate_limit import Limit
from bananas_plugins.unique import Unique
from integration.redis.invariants import check
from integration.redis.support import on_redis_only, pair_on, received

SHORT = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0, events=0.0)
"""Ten minutes is the least."""
META = {
    "schema",  # version of the layout
    "shards",  # how many groups of keys there are
    "last",  # the last fence, batch or document version
    "finals",  # ended records
    "last_due",  # when `due` ran
    "grace",  # until when no claim lapses
    "events_from",  # after which event the feed begins
    "swept",  # how far the index of new jobs was looked at
    "mail",  # the last number of a message
    "mark",  # what WAIT waits for
}
"""All that may be left: docs/how-to/redis.md says so."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def pair(redis_url: str, namespace: str, clock: ManualClock) -> AsyncIterator[Pair]:
    found = pair_on(redis_url, namespace, clock)
    await found.open()
    yield found
    await found.close()


async def forgotten(pair: Pair, clock: ManualClock, seconds: float = 700.0) -> None:
    """Let time pass, with the duty that every worker has."""
    clock.advance(seconds)
    duty = DueLoop(
        pair, Sender(pair), ["default"], clock=clock, rng=random.Random(0), retention=SHORT
    )
    for _ in range(5):
        clock.advance(31.0)
        await duty.once()


def nothing_is_left(url: str, namespace: str) -> None:
    with redis.Redis.from_url(url) as client:
        check(client, namespace)
        prefix = Keys(namespace).prefix
        left = [key.decode() for key in client.scan_iter(f"{prefix}*", count=1000)]
        # Bells of queues go by themselves, a minute after the last job.
        bells = [key for key in left if key.startswith(f"{prefix}wake:")]
        assert all(0 < client.ttl(key) <= 60 for key in bells)
        rest = {key: client.memory_usage(key) for key in left if key not in bells}
        assert list(rest) == [Keys(namespace).meta], rest
        fields = {field.decode() for field in client.hkeys(Keys(namespace).meta)}
        assert fields <= META
        assert client.hget(Keys(namespace).meta, "finals") == b"0"
        assert rest[Keys(namespace).meta] < 1000


@on_redis_only
@pytest.mark.timeout(180)
async def test_nothing_is_left_of_many_jobs(
    redis_url: str, namespace: str, pair: Pair, clock: ManualClock
) -> None:
    count, done = 100_000, 0
    for _ in range(0, count, 500):
        await pair.backend.put([a_job() for _ in range(500)])
        clock.advance(0.01)
    while claims := await received(pair, "s", 100):
        answers, _ = await pair.backend.finish([outcome(c, result=b"[1,2,3]") for c in claims])
        done += sum(answer.accepted for answer in answers)
        clock.advance(0.01)
        if not done % 1000:
            await pair.backend.renew(Session(id="s", name="s"), [], mode=RenewMode.UPDATE)
    assert done == count
    await pair.backend.renew(Session(id="s", name="s"), [], mode=RenewMode.ENDED)
    with redis.Redis.from_url(redis_url) as client:
        assert client.hlen(Keys(namespace).heads) == client.hlen(Keys(namespace).results) == count
    await forgotten(pair, clock)
    nothing_is_left(redis_url, namespace)


async def test_nothing_is_left_of_jobs_that_failed_often(
    redis_url: str, namespace: str, pair: Pair, clock: ManualClock
) -> None:
    """Nor of sessions that came and went."""
    kinds = [OutcomeKind.FAILED, OutcomeKind.RETRY, OutcomeKind.HANDBACK, OutcomeKind.SNOOZE]
    await pair.backend.put([a_job(max_attempts=3, priority=n % 5) for n in range(2000)])
    for turn in range(200):
        session = f"s{turn}"
        claims = await received(pair, session, 100)
        await pair.backend.finish(
            [
                outcome(c, kinds[n % 4] if turn < 40 else OutcomeKind.FAILED, error=ERROR)
                for n, c in enumerate(claims)
            ]
        )
        if turn % 2:
            await pair.backend.renew(Session(id=session, name="s"), [], mode=RenewMode.ENDED)
        clock.advance(1.0)
        await pair.backend.due(500)
    counts = {c.group[0]: c.count for c in await pair.backend.count(["state"])}
    assert counts == {"failed": 2000}
    await forgotten(pair, clock)
    nothing_is_left(redis_url, namespace)


async def test_nothing_is_left_of_what_an_app_does(
    redis_url: str, namespace: str, pair: Pair, clock: ManualClock
) -> None:
    """Failures, retries, delays, cancels, expiries, unique keys, limits, workflows, large payloads
    and results, log lines, progress, and bytes that are no message."""
    app = Bananas(
        redis_url,
        namespace=namespace,
        clock=clock,
        make_pair=lambda settings: pair_on(redis_url, namespace, clock),
    )

    @app.task
    async def double(number: int) -> int:
        current_job().log("a line")
        current_job().progress(0.5, "half")
        return 2 * number

    @app.task
    async def add(values: list[int]) -> int:
        return sum(values)

    @app.task(max_attempts=1)
    async def fail(number: int) -> None:
        raise ValueError(number)

    @app.task(max_attempts=3)
    async def fail_once(number: int) -> int:
        if current_job().attempt == 1:
            raise Retry(delay=1)
        return number

    @app.task(unique=Unique(args=["number"]))
    async def single(number: int) -> int:
        return number

    @app.task(limits=Limit("1000/s"))
    async def limited(number: int) -> int:
        return number

    @app.task
    async def large(text: str) -> str:
        return text

    numbers: list[dict[str, Any]] = [{"number": n} for n in range(100)]
    async with app:
        for task in (double, fail, fail_once, limited):
            await task.submit_many(numbers)
        for n in range(100):
            await single.submit(n)
        await large.submit("x" * 400_000)
        for n in range(20):
            await double.job(n).options(delay=30).submit()
            await double.job(n).options(queue_timeout=10, delay=1).submit()
            assert await (await double.job(n).options(delay=60).submit()).cancel()
        for _ in range(5):
            await chord([double.job(n) for n in range(20)], add.job()).submit()
        await chord([double.job(1), fail.job(2)], add.job()).submit()
        with redis.Redis.from_url(redis_url) as client:
            client.rpush(Keys(namespace).inbox, b"no message", b"{}")
        for _ in range(4):
            await drain(app)
            clock.advance(31.0)
        counts = {c.group[0]: c.count for c in await app.backend.count(["state"])}
        assert set(counts) == {
            JobState.COMPLETED,
            JobState.FAILED,
            JobState.CANCELLED,
            JobState.QUARANTINED,
        }, counts
        with redis.Redis.from_url(redis_url) as client:
            for key in ("docs", "extras", "results", "events", "job-docs"):
                assert client.exists(f"{{{namespace}}}:{key}"), key
        await forgotten(pair, clock)
        await app.transport.purge("default")  # what was quarantined is kept until then
    nothing_is_left(redis_url, namespace)
