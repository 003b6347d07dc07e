"""Bananas with its defaults: bulk submit, and one worker process with results in a ledger on
Redis. URLs are in the environment."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

from bananas import Bananas
from benchmarks.rounds import Stopwatch, report, timed
from benchmarks.sqlite.ours import drain, submit


async def measure(what: str, jobs: int, folder: str) -> Stopwatch:
    app = Bananas(namespace=Path(folder).name)

    @app.task(name="benchmarks.noop")
    async def noop(number: int) -> int:
        return number

    async with app:
        await app.transport.declare(["default"])
        gc.freeze()
        if what == "submit":
            with timed() as watch:
                await submit(app, jobs)
        else:
            await submit(app, jobs)
            with timed() as watch:
                await drain(app, jobs)
        await app.transport.erase()
    return watch


def run(what: str, jobs: int, folder: str) -> Stopwatch:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(measure(what, jobs, folder))
    return uvloop.run(measure(what, jobs, folder))


if __name__ == "__main__":
    count = int(sys.argv[2])
    report(count, run(sys.argv[1], count, sys.argv[3]))
