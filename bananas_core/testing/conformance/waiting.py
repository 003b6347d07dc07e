"""Topic: waiting for the end of jobs."""

from __future__ import annotations

import asyncio

from bananas_core.errors import ResultBackendError
from bananas_core.job import JobState, OutcomeKind, Signal, SignalKind
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise
from bananas_core.testing.conformance.support import ERROR, Suite, a_job, finish_one, started


class Waiting(Suite):
    @promise("L29")
    async def test_a_waiter_is_told_of_the_end(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        loop, session = asyncio.get_running_loop(), harness.session()
        claims = [await started(one, session) for _ in range(2)]
        waiting = asyncio.create_task(two.wait([claim.id for claim in claims], 60.0))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        begun = loop.time()
        await finish_one(one, claims[1], result=b"7")
        async with asyncio.timeout(harness.limits.deadline):
            (job,) = await waiting
        assert (job.id, job.state, job.result) == (claims[1].id, JobState.COMPLETED, b"7")
        assert loop.time() - begun < harness.limits.wake

    @promise("L29")
    async def test_every_way_to_end_is_told(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        failed, cancelled = await started(backend, session), a_job()
        poison = a_job(name="", quarantine=ERROR)
        await finish_one(backend, failed, OutcomeKind.FAILED, error=ERROR)
        await backend.put([cancelled, poison])
        await backend.signal([Signal(id=cancelled.id, kind=SignalKind.CANCEL)])
        jobs = await backend.wait([failed.id, cancelled.id, poison.id], 5.0)
        assert {job.id: job.state for job in jobs} == {
            failed.id: JobState.FAILED,
            cancelled.id: JobState.CANCELLED,
            poison.id: JobState.QUARANTINED,
        }

    @promise("L29")
    async def test_a_wait_gives_up_after_its_timeout(self, harness: Harness) -> None:
        backend, loop = await harness.backend(), asyncio.get_running_loop()
        claim = await started(backend, harness.session())
        begun = loop.time()
        assert await backend.wait([claim.id, "nobody"], 0.2) == []
        assert 0.15 <= loop.time() - begun < harness.limits.deadline
        assert await backend.wait([claim.id], 0.0) == []
        assert await backend.wait([], 0.05) == []

    @promise("L29")
    async def test_a_cancelled_wait_leaves_nothing_behind(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        for turns in range(6):
            waiting = asyncio.create_task(backend.wait([claim.id], 60.0))
            await asyncio.wait({waiting}, timeout=0.005 * turns)
            waiting.cancel()
            await asyncio.wait({waiting})
            assert waiting.cancelled()
        await finish_one(backend, claim)
        (job,) = await backend.wait([claim.id], 5.0)
        assert job.state is JobState.COMPLETED

    @promise("L29")
    async def test_close_ends_a_wait(self, harness: Harness) -> None:
        backend = await harness.backend()
        claim = await started(backend, harness.session())
        waiting = asyncio.create_task(backend.wait([claim.id], 600.0))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        await backend.close()
        async with asyncio.timeout(harness.limits.deadline):
            try:
                assert await waiting == []
            except ResultBackendError:
                pass  # "it was closed" is an answer too
