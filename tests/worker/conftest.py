"""A worker that runs in the test's own loop, and what the tests of it share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from bananas import Bananas
from bananas.testing import memory_app
from bananas_core.clock import SystemClock
from bananas_core.renew import LoopKeeper
from bananas_core.worker import Worker, WorkerOptions


@asynccontextmanager
async def working(app: Bananas, **options: object) -> AsyncIterator[Worker]:
    """A worker on an open app; stopped gracefully at the end."""
    clock = SystemClock()
    keeper = LoopKeeper(app.backend, clock, every=0.1)
    ready = asyncio.Event()
    worker = Worker(
        app,
        WorkerOptions(**{"grace": 2.0, **options}),  # type: ignore[arg-type]
        keeper=keeper,
        clock=clock,
        on_ready=ready.set,
    )
    run = asyncio.create_task(worker.run())
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({run, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        yield worker
    finally:
        worker.stop()
        await run


async def eventually(condition: Callable[[], Awaitable[object]], *, within: float = 5.0) -> None:
    """Wait until ``await condition()`` is true.

    Raises:
        AssertionError: it was not within so many seconds.
    """
    end = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < end, "did not become true in time"
        await asyncio.sleep(0.01)


@pytest.fixture
async def app() -> AsyncIterator[Bananas]:
    """An app in memory, open when the test has added its tasks."""
    app = memory_app()
    yield app
    await app.close()
