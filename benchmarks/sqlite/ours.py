"""Bananas with its defaults: bulk submit, and one worker process with results. By default on SQLite
in a folder."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

from bananas import Bananas
from bananas_core.clock import SystemClock
from bananas_core.renew import LoopKeeper
from bananas_core.worker import Worker, WorkerOptions
from benchmarks.rounds import Stopwatch, report, timed

CONCURRENCY = 100


def make_app(url: str) -> Bananas:
    app = Bananas(url)

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


async def measure(what: str, jobs: int, url: str) -> Stopwatch:
    app = make_app(url)
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


def main(what: str, jobs: int, url: str) -> None:
    """Measure one of ``submit`` and ``drain``, and print it."""
    try:
        import uvloop
    except ImportError:
        done = asyncio.run(measure(what, jobs, url))
    else:
        done = uvloop.run(measure(what, jobs, url))
    report(jobs, done)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), f"sqlite:///{Path(sys.argv[3]) / 'ours.db'}")
