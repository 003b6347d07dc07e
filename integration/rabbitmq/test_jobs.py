"""Jobs from submit to result, over RabbitMQ with a ledger on Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bananas import Bananas, chain, chord, group
from bananas_core.embed import run_worker
from bananas_core.errors import PayloadTooLarge
from bananas_core.job import JobState
from bananas_plugins.rate_limit import Limit
from bananas_plugins.unique import Unique
from integration.rabbitmq.support import full, plain
from integration.servers import RabbitServer

KIB = 1024
DELAY = 2.0
QUORUM = {"x-queue-type": "quorum"}


@pytest.fixture
async def app(rabbit: RabbitServer, redis_url: str, namespace: str) -> AsyncIterator[Bananas]:
    app = Bananas(
        rabbit.url, result_backend_url=redis_url, namespace=namespace, max_payload=400 * KIB
    )
    yield app
    await app.close()


@asynccontextmanager
async def working(app: Bananas) -> AsyncIterator[None]:
    """The app is open, and a worker runs."""
    stop = asyncio.Event()
    async with app:
        worker = asyncio.create_task(run_worker(app, routing_keys=["default"], stop=stop))
        yield
        stop.set()
        await worker


async def test_workflows(app: Bananas) -> None:
    @app.task
    async def double(number: int) -> int:
        return 2 * number

    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async with working(app):
        flows = [
            await chain(double.job(1), double.job(), double.job()).submit(),
            await group(double.job(n) for n in range(20)).submit(),
            await chord([double.job(n) for n in range(20)], total.job()).submit(),
        ]
        results = [await flow.result(timeout=20) for flow in flows]
    assert results == [8, [2 * n for n in range(20)], 380]


async def test_limits_unique_jobs_delays_and_retries(app: Bananas) -> None:
    tries: list[int] = []

    @app.task(limits=Limit("20/s"))
    async def slow(number: int) -> int:
        return number

    @app.task(unique=Unique())
    async def alone(key: str) -> str:
        return key

    @app.task(max_attempts=3)
    async def flaky() -> str:
        tries.append(1)
        if len(tries) < 2:
            raise ValueError("once")
        return "done"

    async with working(app):
        loop = asyncio.get_running_loop()
        begun = loop.time()
        limited = await slow.submit_many([{"number": n} for n in range(40)])
        same = {(await alone.job("k").options(delay=1).submit()).id for _ in range(5)}
        retried = await flaky.submit()
        assert [await job.result(timeout=20) for job in limited] == list(range(40))
        assert loop.time() - begun > 0.8
        (id,) = same
        assert await (await app.get_job(id)).result(timeout=20) == "k"
        assert await retried.result(timeout=20) == "done"


async def test_sizes_at_the_limit(app: Bananas) -> None:
    @app.task
    async def echo(text: str) -> str:
        return text

    room = 400 * KIB - len('{"text":""}')
    async with working(app):
        for size in (150 * KIB, 200 * KIB - 1, 200 * KIB, 200 * KIB + 1, room - 1, room):
            job = await echo.submit("x" * size)
            assert await job.result(timeout=20) == "x" * size
        with pytest.raises(PayloadTooLarge):
            await echo.submit("x" * (room + 1))
        (stats,) = await app.transport.stats(["default"])
        assert (stats.ready, stats.leased) == (0, 0)


async def test_a_graceful_stop_gives_everything_back(app: Bananas) -> None:
    @app.task
    async def sleepy() -> None:
        await asyncio.sleep(60)

    async with app:
        jobs = await sleepy.submit_many([{} for _ in range(100)])
        stop = asyncio.Event()
        worker = asyncio.create_task(
            run_worker(app, routing_keys=["default"], stop=stop, grace=0.0)
        )
        await asyncio.sleep(2.0)
        stop.set()
        await worker
        records = await app.backend.get([job.id for job in jobs])
        assert {record.state for record in records if record} == {JobState.PENDING}
        assert {record.attempt for record in records if record} == {1}

        async def ready() -> int:
            (stats,) = await app.transport.stats(["default"])
            return stats.ready

        async with asyncio.timeout(10):
            while await ready() < len(jobs):
                await asyncio.sleep(0.05)


async def test_a_delayed_job_is_never_early(app: Bananas) -> None:
    due: dict[int, float] = {}
    late: dict[int, float] = {}

    @app.task
    async def noted(number: int) -> None:
        late[number] = time.time() - due[number]

    async with working(app):
        jobs = []
        for number in range(20):
            due[number] = time.time() + DELAY
            jobs.append(await noted.job(number).options(delay=DELAY).submit())
            await asyncio.sleep(0.05)
        for job in jobs:
            await job.result(timeout=20)
    assert min(late.values()) >= 0.0
    assert max(late.values()) <= 1.0


@pytest.mark.parametrize(
    "seconds", [4, pytest.param(60, marks=[full, pytest.mark.timeout(300)])], ids=str
)
async def test_a_job_longer_than_the_consumer_timeout_runs_once(
    redis_url: str, namespace: str, seconds: int
) -> None:
    """Three times as long; a plain client that holds a message for so long loses its channel."""
    starts: list[float] = []
    server = RabbitServer(
        settings={"consumer_timeout": f"{seconds}000"},
        advanced="[{rabbit, [{channel_tick_interval, 1000}]}].\n",
    )
    async with server:
        app = Bananas(server.url, result_backend_url=redis_url, namespace=namespace)

        @app.task
        async def long() -> str:
            starts.append(1.0)
            await asyncio.sleep(3 * seconds)
            return "done"

        async with working(app):
            job = await long.submit()
            held = asyncio.create_task(asyncio.to_thread(loses_its_channel, server, 3.0 * seconds))
            assert await job.result(timeout=5 * seconds) == "done"
            assert await held
    assert len(starts) == 1


def loses_its_channel(server: RabbitServer, seconds: float) -> bool:
    """Take a message and keep it; whether the server closed the channel within that time."""
    with plain(server) as connection:
        channel = connection.channel()
        channel.queue_declare("held", durable=True, arguments=QUORUM)
        channel.basic_publish("", "held", b"")
        channel.basic_consume("held", lambda *_: None)
        until = time.monotonic() + seconds
        while time.monotonic() < until and channel.is_open:
            connection.process_data_events(time_limit=0.5)
        return not channel.is_open
