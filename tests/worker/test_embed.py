"""A worker inside another program."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from bananas import Bananas, ConfigurationError
from bananas.testing import memory_app
from bananas_core.embed import run_worker
from bananas_core.worker import StopReason


@pytest.mark.parametrize("form", ["sqlite", "memory"])
async def test_it_runs_jobs_until_it_is_told_to_stop(form: str, tmp_path: Path) -> None:
    app = memory_app() if form == "memory" else Bananas(f"sqlite:///{tmp_path}/jobs.db")

    @app.task(routing_key="media")
    async def add(a: int, b: int) -> int:
        return a + b

    stop = asyncio.Event()
    async with app:
        run = asyncio.create_task(run_worker(app, stop=stop))
        assert await (await add.submit(1, 2)).result(timeout=10) == 3
        stop.set()
        assert await asyncio.wait_for(run, 10) is StopReason.STOPPED
        assert await app.backend.sessions() == []


async def test_a_blocked_loop_loses_no_claim(tmp_path: Path) -> None:
    app = Bananas(f"sqlite:///{tmp_path}/jobs.db")

    @app.task
    async def block(seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - the fault itself

    stop = asyncio.Event()
    async with app:
        run = asyncio.create_task(run_worker(app, stop=stop))
        job = await block.submit(3.0)
        await job.result(timeout=10)
        (session,) = await app.backend.sessions()
        record = await job.record()
        assert record.finished_at is not None
        # It was renewed while the loop stood still: with a keeper on the loop it would not be.
        assert record.finished_at.timestamp() - session.renewed_at < 3.0
        assert len(record.timeline) == 1
        stop.set()
        await asyncio.wait_for(run, 10)


async def test_the_app_has_to_be_open() -> None:
    with pytest.raises(ConfigurationError, match="open the app"):
        await run_worker(memory_app())
