"""An idle receiver waits and takes in one go; whoever gives up takes nothing from others."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis

from bananas_core.job import JobState
from bananas_core.pair import Pair
from bananas_core.testing.conformance.harness import eventually
from bananas_core.testing.conformance.support import a_job
from integration.redis.support import QUEUE, again, pair_on, received, succeed


@pytest.fixture(autouse=True)
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks unasked within the time of a test."""
    monkeypatch.setattr("bananas_brokers.redis.waits.SLICE", 60.0)


@pytest.fixture
async def pairs(redis_url: str, namespace: str) -> AsyncIterator[tuple[Pair, Pair]]:
    one, two = pair_on(redis_url, namespace), pair_on(redis_url, namespace)
    await one.open()
    await two.open()
    yield one, two
    await two.close()
    await one.close()


def waiting(pair: Pair, session: str) -> asyncio.Task[list[Any]]:
    return asyncio.get_running_loop().create_task(received(pair, session, 1, 20.0))


async def blocked(url: str, name: str = "blpop") -> int:
    """How many connections of the server wait."""
    client = redis.Redis.from_url(url)
    try:
        return sum(one["cmd"] == name and one["flags"] == "b" for one in client.client_list())
    finally:
        client.close()


async def until_blocked(url: str, count: int) -> None:
    async def so_many() -> bool:
        return await blocked(url) == count

    await eventually(so_many, 10.0)


async def test_each_of_two_that_wait_gets_a_job(pairs: tuple[Pair, Pair], redis_url: str) -> None:
    one, two = pairs
    tasks = [waiting(one, "one"), waiting(two, "two")]
    await until_blocked(redis_url, 2)
    puts = [a_job(QUEUE) for _ in range(2)]
    await one.backend.put(puts)
    async with asyncio.timeout(10):
        found = [claim.id for claims in await asyncio.gather(*tasks) for claim in claims]
    assert sorted(found) == sorted(put.id for put in puts)


async def test_who_was_cancelled_takes_nothing_and_swallows_no_token(
    pairs: tuple[Pair, Pair], redis_url: str
) -> None:
    one, two = pairs
    for _ in range(20):
        gone, stays = waiting(one, "gone"), waiting(two, "stays")
        await until_blocked(redis_url, 2)
        gone.cancel()
        put = a_job(QUEUE)
        await two.backend.put([put])
        async with asyncio.timeout(10):
            (claim,) = await stays
        assert claim.id == put.id
        await two.backend.finish([succeed(claim)])
        (job,) = await two.backend.get([put.id])
        assert job is not None
        assert (job.state, job.attempt, job.worker) == (JobState.COMPLETED, 1, "stays")
        await until_blocked(redis_url, 0)


async def test_a_login_that_may_not_unblock_loses_nothing_either(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bananas_brokers.redis.waits.SLICE", 1.0)
    admin, user = redis.Redis.from_url(redis_url), f"u{uuid.uuid4().hex[:8]}"
    admin.acl_setuser(
        user, enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"]
    )
    admin.execute_command("ACL", "SETUSER", user, "-client")
    pair = pair_on(redis_url.replace("//", f"//{user}:secret@"), namespace)
    try:
        await pair.open()
        for _ in range(3):
            gone = waiting(pair, "gone")
            await until_blocked(redis_url, 1)
            gone.cancel()
            put = a_job(QUEUE)
            await pair.backend.put([put])
            (claim,) = await received(pair, "stays", 1, 10.0)
            assert claim.id == put.id
            await pair.backend.finish([succeed(claim)])
    finally:
        await pair.close()
        admin.acl_deluser(user)
        admin.close()


async def test_a_server_that_forgot_its_scripts_while_one_waits(
    pairs: tuple[Pair, Pair], redis_url: str
) -> None:
    one, two = pairs
    task = waiting(one, "one")
    await until_blocked(redis_url, 1)
    redis.Redis.from_url(redis_url).script_flush()
    put = a_job(QUEUE)
    await two.backend.put([put])
    async with asyncio.timeout(10):
        (claim,) = await task
    assert claim.id == put.id


async def test_a_lost_connection_is_an_error_and_the_next_receive_goes_on(
    pairs: tuple[Pair, Pair], redis_url: str
) -> None:
    one, two = pairs
    task = waiting(one, "one")
    await until_blocked(redis_url, 1)
    client = redis.Redis.from_url(redis_url)
    for connection in client.client_list():
        if connection["cmd"] == "blpop":
            client.client_kill_filter(_id=connection["id"])
    client.close()
    put = a_job(QUEUE)
    await two.backend.put([put])
    claims = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(claims, BaseException):
        claims = await again(lambda: received(one, "one", 1, 5.0))
    assert [claim.id for claim in claims] == [put.id]


async def test_closing_ends_what_waits_at_once(redis_url: str, namespace: str) -> None:
    pair = pair_on(redis_url, namespace)
    await pair.open()
    task = waiting(pair, "one")
    await until_blocked(redis_url, 1)
    async with asyncio.timeout(5):
        await pair.close()
        assert await task == []
    assert await blocked(redis_url) == 0
