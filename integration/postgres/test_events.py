"""The event feed misses nothing, though transactions commit in another order than they write."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from bananas_core.job import Event, JobState
from bananas_core.pair import Pair
from bananas_core.testing.conformance.support import a_job
from integration.postgres.support import pair_on, received, succeed


async def test_a_reader_does_not_pass_by_what_is_not_committed(url: str, namespace: str) -> None:
    pair = pair_on(url, namespace)
    await pair.open()
    before, slow, quick = a_job(), a_job(), a_job()
    await pair.backend.put([before])
    connection: Any = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    await pair.backend.put([slow], tx=connection)
    await pair.backend.put([quick])
    page = await pair.backend.events("")
    assert [event.id for event in page.events] == [before.id]
    assert (await pair.backend.events(page.cursor)).events == ()
    await transaction.commit()
    page = await pair.backend.events(page.cursor)
    assert [event.id for event in page.events] == [slow.id, quick.id]
    await transaction_rolled_back(pair, connection, page.cursor)
    await connection.close()
    await pair.close()


async def transaction_rolled_back(pair: Pair, connection: Any, cursor: str) -> None:
    """What never was is not waited for."""
    transaction = connection.transaction()
    await transaction.start()
    await pair.backend.put([a_job()], tx=connection)
    await transaction.rollback()
    after = a_job()
    await pair.backend.put([after])
    page = await pair.backend.events(cursor)
    assert [event.id for event in page.events] == [after.id]


async def test_a_follower_sees_all_in_the_order_of_each_job(url: str, namespace: str) -> None:
    pairs = [pair_on(f"{url}?pool_size={n + 3}", namespace) for n in range(3)]
    for pair in pairs:
        await pair.open()
    seen: list[Event] = []
    cursor, over = "", False

    async def follow() -> None:
        nonlocal cursor
        while True:
            last = over
            page = await pairs[0].backend.events(cursor, limit=50)
            seen.extend(page.events)
            cursor = page.cursor
            if last and not page.events:
                return

    async def work(number: int) -> None:
        pair = pairs[number % 3]
        for _ in range(15):
            await pair.backend.put([a_job() for _ in range(4)])
            claims = await received(pair, f"s{number}", 4)
            await pair.backend.finish([succeed(claim) for claim in claims])

    following = asyncio.create_task(follow())
    await asyncio.gather(*(work(number) for number in range(6)))
    while claims := await received(pairs[0], "last", 100):
        await pairs[0].backend.finish([succeed(claim) for claim in claims])
    over = True
    await following
    states: dict[str, list[JobState]] = {}
    for event in seen:
        states.setdefault(event.id, []).append(event.new)
    assert len(states) == 6 * 15 * 4
    whole = [JobState.PENDING, JobState.PROCESSING, JobState.COMPLETED]
    assert all(found == whole for found in states.values())
    for pair in pairs:
        await pair.close()
