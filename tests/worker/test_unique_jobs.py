"""Unique jobs on a worker that runs beside their submitters."""

from __future__ import annotations

import asyncio
from collections import Counter

from bananas import Bananas
from bananas_plugins.unique import Unique
from tests.worker.conftest import eventually, working


async def test_no_two_jobs_of_a_key_run_at_once(app: Bananas) -> None:
    active: Counter[int] = Counter()
    most: Counter[int] = Counter()

    @app.task(unique=Unique(args=("k",)))
    async def busy(k: int, n: int) -> None:
        active[k] += 1
        most[k] = max(most[k], active[k])
        await asyncio.sleep(0.002)
        active[k] -= 1

    async with app, working(app, concurrency=16):
        for start in range(0, 300, 50):
            jobs = await asyncio.gather(*(busy.submit(n % 5, n) for n in range(start, start + 50)))
            await asyncio.gather(*(job.result(timeout=10) for job in jobs))
    assert most == dict.fromkeys(range(5), 1)


async def test_keep_last_runs_once_more_with_the_newest_arguments(app: Bananas) -> None:
    started, go, seen = asyncio.Event(), asyncio.Event(), []

    @app.task(unique=Unique(args=(), on_conflict="keep_last"))
    async def save(n: int) -> None:
        seen.append(n)
        started.set()
        await go.wait()

    async with app, working(app):
        first = await save.submit(0)
        await asyncio.wait_for(started.wait(), 5)
        last = {await save.submit(n) for n in range(1, 5)}
        assert len(last) == 1
        go.set()
        await first.result(timeout=5)
        await last.pop().result(timeout=5)
        assert seen == [0, 4]

        async def tidy() -> bool:
            return await app.backend.docs("unique/") == []

        await eventually(tidy)


async def test_a_retry_keeps_the_key(app: Bananas) -> None:
    attempts: list[int] = []
    failed = asyncio.Event()

    @app.task(unique=Unique(), max_attempts=2)
    async def shaky(n: int) -> int:
        attempts.append(n)
        if len(attempts) == 1:
            failed.set()
            raise ValueError("once")
        return n

    async with app, working(app):
        job = await shaky.submit(1)
        await asyncio.wait_for(failed.wait(), 5)
        assert await shaky.submit(1) == job
        assert await job.result(timeout=10) == 1
    assert attempts == [1, 1]
