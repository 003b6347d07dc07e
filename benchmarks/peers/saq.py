"""SAQ."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from saq import Queue

from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

NAME = "SAQ"
PACKAGES = ["saq[redis,hiredis]", "typing_extensions", "uvloop"]
SETTINGS = (
    "jobs stay in an active list until their end by default; retries 3, without which a job of a "
    "dead worker is aborted; 100 at once (default 10); 100 operations at a time (default 20); "
    "100 sends at a time, since there is no bulk call"
)
RELIABLE = True

options_ = options()
queue = Queue.from_url(options_.url or "redis://localhost", max_concurrent_ops=100)
blob = options_.payload()
KEEP = 3600 if options_.results else -1


async def noop(ctx: dict[str, Any], *, number: int, blob: str = "") -> int:
    started(number)
    return number


async def sleeper(ctx: dict[str, Any]) -> None:
    started_again()
    await asyncio.sleep(HOLD_SECONDS)


settings = {"queue": queue, "functions": [noop, sleeper], "concurrency": 100}


def worker(options: Options) -> list[str]:
    return ["saq", "benchmarks.peers.saq.settings", "--quiet"]


async def open() -> None:
    await queue.connect()


async def close() -> None:
    await queue.disconnect()


async def one(number: int) -> None:
    await queue.enqueue("noop", number=number, blob=blob, ttl=KEEP, retries=3)


async def many(numbers: Sequence[int]) -> None:
    for first in range(0, len(numbers), 100):
        await asyncio.gather(*(one(number) for number in numbers[first : first + 100]))


async def hold() -> None:
    await queue.enqueue("sleeper", retries=3)
