"""The helpers for tests of programs that use Bananas."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bananas.testing import ManualClock, assert_submitted, drain, memory_app
from bananas_core.errors import RateLimited, Retry
from bananas_core.job import JobState
from bananas_core.message import Backoff
from bananas_core.transport import Outgoing


async def test_two_apps_share_nothing() -> None:
    async with memory_app() as one, memory_app() as other:
        await one.submit_job("work", {})
        assert await other.backend.count(["state"]) == []


async def test_submitted_jobs_are_found_by_a_part_of_their_arguments() -> None:
    app = memory_app()

    @app.task
    def send(to: str, at: datetime, copy: str | None = None) -> None: ...

    moment = datetime(2026, 1, 2, tzinfo=UTC)
    async with app:
        with pytest.raises(AssertionError, match="no job of send"):
            await assert_submitted(app, send)
        await send.submit("a", moment)
        await send.submit("b", moment)
        assert len(await assert_submitted(app, send)) == 2
        (record,) = await assert_submitted(app, "send", to="a", at=moment)
        assert record.state is JobState.PENDING
        with pytest.raises(AssertionError, match="'to': 'c'"):
            await assert_submitted(app, send, to="c")
        with pytest.raises(AssertionError):
            await assert_submitted(app, send, to="a", copy=None)


async def test_many_jobs_are_looked_through() -> None:
    async with memory_app() as app:
        await app.submit_specs(app.specs("work", [{"n": n} for n in range(250)], {}))
        assert len(await assert_submitted(app, "work")) == 250
        assert len(await assert_submitted(app, "work", n=0)) == 1


async def test_drain_runs_messages_that_have_no_record_yet() -> None:
    """Those of programs that write to the broker themselves."""
    app, ran = memory_app(), []

    @app.task(name="note")
    async def note(number: int) -> None:
        ran.append(number)

    async with app:
        for number in range(40):
            body = (
                b'{"v":1,"id":"n%d","name":"note","payload":{"number":%d},'
                b'"created_at":"2026-11-24T16:00:00Z"}' % (number, number)
            )
            await app.transport.send([Outgoing(body=body)])
        await drain(app)
        assert sorted(ran) == list(range(40))


async def test_drain_runs_all_that_is_ready_and_what_follows() -> None:
    app = memory_app()
    ran: list[int] = []

    @app.task(routing_key="other")
    async def count_down(n: int) -> None:
        ran.append(n)
        if n:
            await count_down.submit(n - 1)

    async with app:
        await count_down.submit(3)
        await drain(app)
    assert ran == [3, 2, 1, 0]


async def test_retries_wait_for_the_clock() -> None:
    clock = ManualClock()
    app = memory_app(clock=clock)
    attempts: list[str] = []

    @app.task(max_attempts=2, retry=Backoff(delay=10, jitter=0))
    def flaky() -> str:
        attempts.append("x")
        if len(attempts) == 1:
            raise RateLimited(retry_after=100)
        if len(attempts) == 2:
            raise Retry
        return "done"

    async with app:
        job = await flaky.submit()
        await drain(app)
        assert await job.status() is JobState.SCHEDULED
        clock.advance(101)
        await drain(app)
        assert (len(attempts), await job.status()) == (2, JobState.SCHEDULED)
        clock.advance(9)
        await drain(app)
        assert len(attempts) == 2
        clock.advance(2)
        await drain(app)
        assert await job.result(1) == "done"
        assert (await job.record()).attempt == 2
