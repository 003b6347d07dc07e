"""arq."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from arq.connections import ArqRedis, RedisSettings, create_pool

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "arq"
PACKAGES = ["arq", "hiredis", "uvloop"]
SETTINGS = (
    "a job leaves the queue after its run by default; 100 jobs at once (default 10); polls every "
    "10 ms and reads 500 ids (defaults: 0.5 s, 100), as it would sleep most of the time "
    "otherwise; 100 sends at a time, since there is no bulk call"
)
RELIABLE = True

settings = options()
blob = settings.payload()
redis: ArqRedis | None = None


async def noop(ctx: dict[str, Any], number: int, blob: str = "") -> int:
    started(number)
    return number


async def sleeper(ctx: dict[str, Any]) -> None:
    started_again()
    await asyncio.sleep(HOLD_SECONDS)


class WorkerSettings:
    functions: ClassVar = [noop, sleeper]
    redis_settings = RedisSettings.from_dsn(settings.url or "redis://localhost")
    keep_result = 3600 if settings.results else 0
    max_jobs = 100
    poll_delay = 0.01
    queue_read_limit = 500


def worker(options: Options) -> list[str]:
    return ["arq", "benchmarks.peers.arq.WorkerSettings", "--custom-log-dict", f"{__name__}.QUIET"]


QUIET = {"version": 1, "loggers": {"arq": {"level": "WARNING"}}}


async def open() -> None:
    global redis
    redis = await create_pool(WorkerSettings.redis_settings)


async def close() -> None:
    assert redis is not None
    await redis.aclose()


async def one(number: int) -> None:
    assert redis is not None
    await redis.enqueue_job("noop", number, blob)


async def many(numbers: Sequence[int]) -> None:
    for first in range(0, len(numbers), 100):
        await asyncio.gather(*(one(number) for number in numbers[first : first + 100]))


async def hold() -> None:
    assert redis is not None
    await redis.enqueue_job("sleeper")
