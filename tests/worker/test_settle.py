"""Outcomes on their way to the ledger."""

from __future__ import annotations

import asyncio
from typing import Any

from bananas import Bananas
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import Outcome, OutcomeKind
from bananas_core.settle import MOST, Sender, Settler
from bananas_core.worker import UNRECORDED
from tests.worker.conftest import working


class Away:
    """A ledger that can't be reached."""

    def __init__(self) -> None:
        self.calls = 0

    async def finish(self, outcomes: list[Outcome]) -> Any:
        self.calls += 1
        await asyncio.sleep(0)
        raise ResultBackendUnavailable("away")


async def test_a_slow_ledger_holds_up_the_jobs(app: Bananas) -> None:
    """Else a crash would have all of them run again."""
    ended = 0

    @app.task
    async def quick(n: int) -> None:
        nonlocal ended
        ended += 1

    async with app:
        backend: Any = app.backend
        finish, recorded, most = backend.finish, 0, 0

        async def slowly(outcomes: list[Outcome]) -> Any:
            nonlocal recorded, most
            await asyncio.sleep(0.02)
            most = max(most, ended - recorded)
            recorded += len(outcomes)
            return await finish(outcomes)

        backend.finish = slowly
        jobs = await quick.submit_many([{"n": n} for n in range(400)])
        async with working(app, concurrency=4):
            await jobs[-1].result(timeout=20)
        # What waits, with what ran when that became too much; and two batches on their way.
        assert 0 < most <= 3 * (UNRECORDED + 1) * 4


async def test_a_worker_that_was_stopped_at_once_tells_nothing_any_more(app: Bananas) -> None:
    async with app:
        pair: Any = app.pair
        ledger, dropped = Away(), []
        pair.backend, kept = ledger, pair.backend
        settler = Settler(pair, Sender(pair), dropped.extend, done=lambda count: None)
        for n in range(3 * MOST):
            settler.add(Outcome(id=str(n), fence=1, kind=OutcomeKind.COMPLETED))
        while not ledger.calls:
            await asyncio.sleep(0)
        await settler.abandon()
        settler.add(Outcome(id="late", fence=1, kind=OutcomeKind.HANDBACK))
        before = ledger.calls
        for _ in range(20):
            await asyncio.sleep(0)
        assert ledger.calls == before
        assert dropped == []
        assert [t for t in asyncio.all_tasks() if t is not asyncio.current_task()] == []
        pair.backend = kept
