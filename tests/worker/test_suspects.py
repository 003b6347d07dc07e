"""Jobs that may have killed their process twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from bananas import Bananas
from bananas_core.clock import SystemClock
from bananas_core.job import (
    Claim,
    ClaimBeat,
    Hint,
    JobState,
    Outcome,
    OutcomeKind,
    RenewMode,
    Session,
)
from bananas_core.renew import LoopKeeper, Start
from bananas_core.worker import Worker, WorkerOptions
from tests.worker.conftest import eventually


class NotingKeeper(LoopKeeper):
    """Notes which claims count as started: they are charged with a death if this process ends."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.told: list[str] = []

    def started(self, starts: Sequence[Start]) -> None:
        self.told += [start[0] for start in starts]
        super().started(starts)


class SlowIsolation:
    """A process of its own that takes long to start."""

    def __init__(self) -> None:
        self.asked, self.may_begin = asyncio.Event(), asyncio.Event()

    async def run(
        self, claim: Claim, payload: bytes, *, on_begun: Callable[[], None], **_: Any
    ) -> Outcome:
        self.asked.set()
        await self.may_begin.wait()
        on_begun()
        return Outcome(
            id=claim.id, fence=claim.fence, kind=OutcomeKind.COMPLETED, result=b'{"value":1}'
        )


async def test_a_suspect_is_charged_with_a_death_only_once_its_body_begins(app: Bananas) -> None:
    """Many suspects wait for processes at once, which takes long; if the worker dies meanwhile,
    none of them has done it."""

    @app.task
    async def work() -> int:
        return 1

    async with app:
        job = await work.submit()
        for number in range(2):
            await _die(app, job.id, f"dead-{number}")
        clock, isolation = SystemClock(), SlowIsolation()
        keeper = NotingKeeper(app.backend, clock)
        options = WorkerOptions(grace=2.0)
        worker = Worker(app, options, keeper=keeper, clock=clock, isolation=isolation)
        run = asyncio.create_task(worker.run())
        await asyncio.wait_for(isolation.asked.wait(), 5.0)
        assert keeper.told == []
        isolation.may_begin.set()

        async def completed() -> bool:
            return await job.status() is JobState.COMPLETED

        await eventually(completed)
        assert keeper.told == [job.id]
        worker.stop()
        await run


async def _die(app: Bananas, job_id: str, session: str) -> None:
    """Claim the job for a process that ends with it."""
    (record,) = await app.backend.get([job_id])
    assert record is not None
    (verdict,) = await app.backend.claim(session, [Hint(id=job_id, gen=record.gen)])
    assert verdict.claim is not None
    beat = ClaimBeat(id=job_id, fence=verdict.claim.fence)
    await app.backend.renew(Session(id=session, name="dead"), [beat], mode=RenewMode.ENDED)
