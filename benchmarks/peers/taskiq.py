"""taskiq with taskiq-redis."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "taskiq"
PACKAGES = ["taskiq", "taskiq-redis", "hiredis", "uvloop"]
SETTINGS = (
    "RedisStreamBroker, the one that acknowledges, after the run; consumer_id 0, so that jobs sent "
    "before the first worker count; 100 tasks at once, as many prefetched; 100 sends at a time, "
    "since there is no bulk call"
)
RELIABLE = True

settings = options()
broker = RedisStreamBroker(settings.url, consumer_id="0", max_connection_pool_size=120)
if settings.results:
    broker = broker.with_result_backend(
        RedisAsyncResultBackend(settings.url, result_ex_time=3600, max_connection_pool_size=120)
    )
blob = settings.payload()


@broker.task(task_name="noop")
async def noop(number: int, blob: str = "") -> int:
    started(number)
    return number


@broker.task(task_name="sleeper")
async def sleeper() -> None:
    started_again()
    await asyncio.sleep(HOLD_SECONDS)


def worker(options: Options) -> list[str]:
    return [
        *("taskiq", "worker", "benchmarks.peers.taskiq:broker", "--workers", "1"),
        *("--max-async-tasks", "100", "--max-prefetch", "100", "--log-level", "WARNING"),
        *("--ack-type", "when_saved" if options.results else "when_executed"),
    ]


async def open() -> None:
    await broker.startup()


async def close() -> None:
    await broker.shutdown()


async def one(number: int) -> None:
    await noop.kiq(number, blob)


async def many(numbers: Sequence[int]) -> None:
    for first in range(0, len(numbers), 100):
        await asyncio.gather(*(noop.kiq(n, blob) for n in numbers[first : first + 100]))


async def hold() -> None:
    await sleeper.kiq()
