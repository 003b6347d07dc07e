"""The worker as a whole: order, pause, graceful stop, claiming ahead, bad bytes."""

from __future__ import annotations

import asyncio
import time

import msgspec

from bananas import Bananas
from bananas.testing import memory_app
from bananas_core.clock import SystemClock
from bananas_core.job import JobState, Query, Write
from bananas_core.renew import LoopKeeper
from bananas_core.transport import Outgoing
from bananas_core.worker import StopReason, Worker, WorkerOptions
from tests.worker.conftest import eventually, working


async def test_larger_priorities_run_first(app: Bananas) -> None:
    order: list[int] = []

    @app.task
    async def note(n: int) -> None:
        order.append(n)

    async with app:
        jobs = [await note.job(n).options(priority=n).submit() for n in (10, 90, 50, 100, 0)]
        async with working(app, concurrency=1):
            for job in jobs:
                await job.result(timeout=5)
    assert order == [100, 90, 50, 10, 0]


async def test_a_paused_routing_key_is_not_served_until_it_is_resumed(app: Bananas) -> None:
    @app.task
    async def quick() -> None: ...

    async with app:
        await app.backend.cas([Write(key="pause/default", value=b"{}")])
        async with working(app):
            job = await quick.submit()
            await asyncio.sleep(0.2)
            assert await job.status() == "pending"
            await app.backend.cas([Write(key="pause/default", value=None)])
            await job.result(timeout=5)


async def test_a_graceful_stop_finishes_what_it_can_and_hands_the_rest_back(app: Bananas) -> None:
    @app.task
    async def sleeping(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with app:
        async with working(app, concurrency=4, grace=0.5) as worker:
            short = [await sleeping.submit(0.2) for _ in range(2)]
            long = [await sleeping.submit(30) for _ in range(2)]

            async def all_run() -> bool:
                return len(worker._executor.running) == 4

            await eventually(all_run)
            begun = time.monotonic()
        assert time.monotonic() - begun < 0.5 + 2
        for job in short:
            assert await job.status() == "completed"
        for job in long:
            (stored,) = await app.backend.get([job.id])
            assert stored is not None
            assert stored.state is JobState.PENDING
            assert stored.attempt == 1
            assert stored.head
        assert await app.backend.sessions() == []


async def test_what_is_claimed_ahead_of_long_jobs_is_handed_back(app: Bananas) -> None:
    @app.task
    async def quick() -> None: ...

    @app.task
    async def sleeping() -> None:
        await asyncio.sleep(30)

    async with app:
        async with working(app, concurrency=1, grace=0.1) as worker:
            for job in [await quick.submit() for _ in range(20)]:
                await job.result(timeout=5)
            jobs = [await sleeping.submit() for _ in range(10)]

            async def only_one_is_held() -> bool:
                counts = {c.group[0]: c.count for c in await app.backend.count(["state"])}
                return counts.get("processing") == 1 and counts.get("pending") == 9

            await eventually(only_one_is_held)
            assert len(worker._backlog) == 0
        assert len(jobs) == 10


async def test_max_jobs_ends_the_worker_for_another_to_take_its_place(app: Bananas) -> None:
    @app.task
    async def quick() -> None: ...

    async with app:
        await quick.submit_many([{}] * 200)
        clock = SystemClock()
        keeper = LoopKeeper(app.backend, clock)
        options = WorkerOptions(max_jobs=5, concurrency=1)
        worker = Worker(app, options, keeper=keeper, clock=clock)
        assert await asyncio.wait_for(worker.run(), 10) is StopReason.RECYCLE
        assert 5 <= worker.done < 200
        counts = {c.group[0]: c.count for c in await app.backend.count(["state"])}
        assert counts == {"completed": worker.done, "pending": 200 - worker.done}


async def test_bytes_that_are_no_message_are_quarantined_whole(app: Bananas) -> None:
    bad = [
        b"\x80\x04K\x01.",
        b"[" * 1_000_000,
        b'{"v":1',
        b"\xff\xfe",
        b'{"v":1,"x":' + b"1" * 9999,
    ]
    async with app, working(app):
        assert app.pair is not None
        sent = await app.transport.send([Outgoing(body=body) for body in bad])
        assert sent == [None] * len(bad)

        async def all_kept() -> bool:
            page = await app.backend.query(Query(states=(JobState.QUARANTINED,)))
            return len(page.jobs) == len(bad)

        await eventually(all_kept)
        page = await app.backend.query(Query(states=(JobState.QUARANTINED,)))
        assert {job.message for job in page.jobs} == set(bad)


async def test_a_foreign_message_is_claimed_and_run(app: Bananas) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async with app, working(app):
        message = {
            "v": 1,
            "id": "from-afar",
            "name": "double",
            "payload": {"n": 21},
            "created_at": "2026-01-01T00:00:00Z",
        }
        await app.transport.send([Outgoing(body=msgspec.json.encode(message))])

        async def known() -> bool:
            return (await app.backend.get(["from-afar"]))[0] is not None

        await eventually(known)
        assert await (await app.get_job("from-afar")).result(timeout=5) == 42


async def test_a_message_whose_job_the_ledger_forgot_never_runs() -> None:
    ran = []
    app = memory_app()

    @app.task
    async def note() -> None:
        ran.append(1)

    async with app, working(app):
        message = {
            "v": 1,
            "id": "pruned-long-ago",
            "put": True,
            "name": "note",
            "payload": {},
            "created_at": "2026-01-01T00:00:00Z",
        }
        await app.transport.send([Outgoing(body=msgspec.json.encode(message))])

        async def quarantined() -> bool:
            page = await app.backend.query(Query(states=(JobState.QUARANTINED,)))
            return bool(page.jobs) and "unrecorded" in page.jobs[0].error.type

        await eventually(quarantined)
    assert not ran
