"""streaQ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from streaq import Worker

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "streaQ"
PACKAGES = ["streaq", "hiredis", "uvloop"]
SETTINGS = (
    "streams, acknowledged after the run by default; 16 at once by default, of which more is not "
    "faster here; enqueue_many for bulk"
)
RELIABLE = True

settings = options()
pool = Worker(redis_url=settings.url or "redis://localhost")
blob = settings.payload()
stack = AsyncExitStack()


@pool.task(ttl=3600 if settings.results else 0)
async def noop(number: int, blob: str = "") -> int:
    started(number)
    return number


@pool.task()
async def sleeper() -> None:
    started_again()
    await asyncio.sleep(HOLD_SECONDS)


def worker(options: Options) -> list[str]:
    return ["streaq", "run", "benchmarks.peers.streaq:pool", "--workers", "1"]


async def open() -> None:
    await stack.enter_async_context(pool)


async def close() -> None:
    await stack.aclose()


async def one(number: int) -> None:
    await noop.enqueue(number, blob)


async def many(numbers: Sequence[int]) -> None:
    await pool.enqueue_many([noop.enqueue(number, blob) for number in numbers])


async def hold() -> None:
    await sleeper.enqueue()
