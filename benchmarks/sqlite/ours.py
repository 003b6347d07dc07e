"""Bananas on SQLite with its defaults: bulk submit, and one worker process with results."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

from bananas import Bananas
from bananas_core.clock import SystemClock
from bananas_core.renew import LoopKeeper
from bananas_core.worker import Worker, WorkerOptions
from benchmarks.sqlite.measure import Stopwatch, report, timed

CONCURRENCY = 100


def make_app(folder: str) -> Bananas:
    app = Bananas(f"sqlite:///{Path(folder) / 'ours.db'}")

    @app.task(name="benchmarks.noop")
    async def noop(number: int) -> int:
        return number

    return app


async def submit(app: Bananas, jobs: int) -> None:
    task = app.tasks["benchmarks.noop"]
    await task.submit_many([{"number": n} for n in range(jobs)])


async def drain(app: Bananas, jobs: int) -> None:
    clock = SystemClock()
    worker = Worker(
        app,
        WorkerOptions(concurrency=CONCURRENCY),
        keeper=LoopKeeper(app.backend, clock),
        clock=clock,
    )
    run = asyncio.create_task(worker.run())
    while worker.done < jobs and not run.done():
        await asyncio.sleep(0.005)
    worker.stop()
    await run


async def measure(what: str, jobs: int, folder: str) -> Stopwatch:
    app = make_app(folder)
    async with app:
        gc.freeze()
        if what == "submit":
            with timed() as watch:
                await submit(app, jobs)
        else:
            await submit(app, jobs)
            with timed() as watch:
                await drain(app, jobs)
    return watch


if __name__ == "__main__":
    count = int(sys.argv[2])
    try:
        import uvloop
    except ImportError:
        done = asyncio.run(measure(sys.argv[1], count, sys.argv[3]))
    else:
        done = uvloop.run(measure(sys.argv[1], count, sys.argv[3]))
    report(count, done)
