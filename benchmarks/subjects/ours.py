"""Bananas on whatever broker the URL names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from bananas import Bananas
from benchmarks.subjects.common import HOLD_SECONDS, Options, options, started, started_again

CONCURRENCY = 100

settings = options()
app = Bananas(settings.url or None)


async def noop_async(number: int, blob: str = "") -> int:
    started(number)
    return number


def noop_def(number: int, blob: str = "") -> int:
    started(number)
    return number


body: Callable[..., Any] = noop_def if settings.plain else noop_async
noop = app.task(name="noop", result=settings.results)(body)


@app.task(name="sleeper")
async def sleeper() -> None:
    started_again()
    await asyncio.sleep(HOLD_SECONDS)


def worker(options: Options) -> list[str]:
    command = ["bananas", "worker", "benchmarks.subjects.ours:app"]
    if options.defaults:
        return command
    concurrency = options.concurrency or CONCURRENCY
    command += ["--concurrency", str(concurrency), "--processes", str(options.processes)]
    for key in range(options.keys if options.keys > 1 else 0):
        command += ["--routing-key", f"k{key}"]
    return command


async def open() -> None:
    await app.open()


async def close() -> None:
    await app.close()


blob = settings.payload()


async def one(number: int) -> None:
    await noop.submit(number, blob)


async def many(numbers: Sequence[int]) -> None:
    if settings.keys == 1 and settings.priorities == 1:
        await noop.submit_many([{"number": number, "blob": blob} for number in numbers])
        return
    specs = []
    for number in numbers:
        spec = noop.job(number, blob)
        if settings.keys > 1:
            spec = spec.options(routing_key=f"k{number % settings.keys}")
        if settings.priorities > 1:
            spec = spec.options(priority=number % settings.priorities)
        specs.append(spec)
    await app.submit_specs(specs)


async def hold() -> None:
    await sleeper.submit()
