"""Limits in a worker: who starts when, what waits, and what becomes of it."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from pathlib import Path

import pytest

from bananas import Bananas, ConfigurationError, JobCancelled, JobFailed
from bananas.testing import memory_app
from bananas_core.codec import CodecContext
from bananas_core.hooks import hookimpl
from bananas_core.job import JobState, Query
from bananas_core.limits import Rate
from bananas_core.limits.views import look, set_rule
from bananas_core.plugins import Plugin
from bananas_plugins.rate_limit import Limit, limiter
from tests.worker.conftest import eventually, working


@pytest.fixture(params=["memory", "split", "sqlite"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> Bananas:
    if request.param == "memory":
        return memory_app()
    if request.param == "split":
        return Bananas(f"memory://{tmp_path.name}?form=split")
    return Bananas(f"sqlite:///{tmp_path / 'jobs.db'}")


def fullest(starts: list[float], period: float = 1.0) -> int:
    return max(sum(begin <= at < begin + period for at in starts) for begin in starts)


async def test_two_workers_share_a_rate(app: Bananas) -> None:
    starts: list[float] = []

    @app.task(limits=Limit("40/s"))
    async def limited(n: int) -> None:
        starts.append(time.monotonic())

    async with app:
        jobs = await limited.submit_many([{"n": n} for n in range(100)])
        async with working(app), working(app):
            for job in jobs:
                await job.result(timeout=20)
        found = [await app.backend.get([job.id]) for job in jobs]
    starts.sort()
    assert fullest(starts) <= 41
    # Not one turn at a time; which share is used is measured by the fault scenario of limits.
    assert 99 / (starts[-1] - starts[0]) >= 0.5 * 40
    assert all(job is not None and job.attempt == 1 for (job,) in found)
    claims = sum(len(job.attempts) for (job,) in found if job is not None)
    assert claims / len(jobs) <= 2.2


async def test_jobs_without_a_limit_overtake_those_that_wait(app: Bananas) -> None:
    @app.task(limits=Limit("1/h"))
    async def limited(n: int) -> None: ...

    @app.task
    async def free() -> None: ...

    async with app:
        jobs = await limited.submit_many([{"n": n} for n in range(30)])
        async with working(app, concurrency=2):
            await (await free.submit()).result(timeout=5)

            async def all_wait() -> bool:
                page = await app.backend.query(Query(name="limited"))
                states = [job.state for job in page.jobs]
                return states.count(JobState.SCHEDULED) == 29

            await eventually(all_wait)
            for job in [await free.submit() for _ in range(20)]:
                await job.result(timeout=5)
            records = [(await app.backend.get([job.id]))[0] for job in jobs]
        held = [record.held for record in records if record is not None and record.held]
        assert len(held) == 29
        assert {found.by for found in held} == {"limit:limited"}
        turns = sorted(found.until for found in held)
        assert min(b - a for a, b in pairwise(turns)) >= 3600


async def test_each_key_has_a_limit_of_its_own(app: Bananas) -> None:
    starts: list[int] = []

    @app.task(limits=Limit("1/h", key="{user_id}"))
    async def limited(user_id: int, n: int = 0) -> None:
        starts.append(user_id)

    async with app:
        await limited.submit_many([{"user_id": user, "n": n} for user in range(5) for n in (1, 2)])
        async with working(app):

            async def one_each() -> bool:
                return sorted(starts) == [0, 1, 2, 3, 4]

            await eventually(one_each)
            views = await look(app.backend)
        assert [view.key for view in views] == ["0", "1", "2", "3", "4"]
        assert {view.rule for view in views} == {"1/h"}


async def test_never_more_run_than_there_are_slots(app: Bananas) -> None:
    now = most = 0

    @app.task(limits=Limit(concurrency=3, key=lambda job: job.payload["user"]))
    async def slow(user: str) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1

    async with app:
        jobs = await slow.submit_many([{"user": "a"}] * 40)
        async with working(app), working(app):
            for job in jobs:
                await job.result(timeout=20)
        (view,) = await look(app.backend)
    assert most == 3
    assert view.used == 0


async def test_a_slot_comes_back_after_a_failure_and_a_time_out(app: Bananas) -> None:
    @app.task(limits=Limit(concurrency=1, name="one"), max_attempts=1, timeout=0.1)
    async def bad(sleeps: bool) -> None:
        if sleeps:
            await asyncio.sleep(30)
        raise ValueError("no")

    async with app:
        jobs = [await bad.submit(sleeps) for sleeps in (False, True, False)]
        async with working(app):
            for job in jobs:
                with pytest.raises(JobFailed):
                    await job.result(timeout=20)


class Broken(Plugin):
    """Encodes all, and can't read some of it again."""

    name = "broken"

    @hookimpl
    def codecs(self) -> tuple[Broken, ...]:
        return (self,)

    def encode(self, data: bytes, context: CodecContext) -> bytes:
        return data

    def decode(self, data: bytes, context: CodecContext, max_size: int) -> bytes:
        if b"unreadable" in data:
            raise RuntimeError("a defect in a codec")
        return data


async def test_a_job_whose_key_can_not_be_made_fails_alone(app: Bananas) -> None:
    app.plugins.register(Broken())

    @app.task(limits=Limit("1000/s", key="{who}"), max_attempts=1)
    async def greet(who: str) -> str:
        return who

    @app.task(limits=Limit(concurrency=5, key=lambda job: "\ud800"))
    async def odd() -> None: ...

    async with app:
        jobs = await greet.submit_many([{"who": who} for who in ("ann", "unreadable", "bob")])
        other = await odd.submit()
        async with working(app):
            assert await jobs[0].result(timeout=5) == "ann"
            with pytest.raises(JobFailed, match="a defect in a codec"):
                await jobs[1].result(timeout=5)
            assert await jobs[2].result(timeout=5) == "bob"
            await other.result(timeout=5)


async def test_a_job_over_the_limit_may_be_dropped(app: Bananas) -> None:
    ran: list[int] = []

    @app.task(limits=Limit("1/h", on_excess="drop", name="rare"))
    async def dropped(n: int) -> None:
        ran.append(n)

    async with app:
        jobs = await dropped.submit_many([{"n": n} for n in range(3)])
        async with working(app):
            outcomes = await asyncio.gather(
                *(job.result(timeout=10) for job in jobs), return_exceptions=True
            )
    assert len(ran) == 1
    refused = [error for error in outcomes if isinstance(error, JobCancelled)]
    assert [error.reason for error in refused] == ["over limit rare"] * 2


async def test_all_limits_of_a_task_are_kept(app: Bananas) -> None:
    starts: list[float] = []
    now = most = 0

    @app.task(limits=[Limit("30/s", name="all"), Limit(concurrency=2, name="few")])
    async def both(n: int) -> None:
        nonlocal now, most
        starts.append(time.monotonic())
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1

    async with app:
        jobs = await both.submit_many([{"n": n} for n in range(40)])
        async with working(app):
            for job in jobs:
                await job.result(timeout=30)
    assert most <= 2
    assert fullest(starts) <= 31


async def test_a_limit_changes_at_run_time(app: Bananas) -> None:
    @app.task(limits=Limit("1/h", name="slow"))
    async def limited(n: int) -> None: ...

    async with app:
        async with working(app):
            await (await limited.submit(0)).result(timeout=5)
            await set_rule(app.backend, "slow", Rate(count=100, period=1.0), by="tester")
            for job in [await limited.submit(n) for n in (1, 2, 3)]:
                await job.result(timeout=5)
        (view,) = await look(app.backend)
    assert (view.rule, view.changed, view.by) == ("100/s", True, "tester")


async def test_a_stopped_worker_passes_turns_on(app: Bananas) -> None:
    ran: list[int] = []

    @app.task(limits=Limit("1/s"))
    async def limited(n: int) -> None:
        ran.append(n)

    async with app:
        jobs = await limited.submit_many([{"n": n} for n in range(3)])
        async with working(app):

            async def first() -> bool:
                return len(ran) == 1

            await eventually(first)
        stored = [(await app.backend.get([job.id]))[0] for job in jobs]
        waiting = [job for job in stored if job is not None and job.state is not JobState.COMPLETED]
        assert len(waiting) == 2
        assert all(job.held is not None and job.held.gen == job.gen for job in waiting)
        async with working(app):
            for job in jobs:
                await job.result(timeout=10)
    assert sorted(ran) == [0, 1, 2]


async def test_a_cancelled_job_gives_its_turn_back(app: Bananas) -> None:
    @app.task(limits=Limit("1/h"))
    async def limited(n: int) -> None: ...

    async with app:
        jobs = await limited.submit_many([{"n": n} for n in range(4)])
        async with working(app):

            async def all_wait() -> bool:
                states = [await job.status() for job in jobs]
                return states.count(JobState.SCHEDULED) == 3

            await eventually(all_wait)
            (before,) = await look(app.backend)
            waiting = [job for job in jobs if await job.status() is JobState.SCHEDULED]
            for job in waiting:
                assert await job.cancel("not needed")
            (after,) = await look(app.backend)
    assert before.waiters == 3
    assert after.waiters == 0
    assert after.next_turn is not None
    assert before.next_turn is not None
    assert before.next_turn - after.next_turn > 2.9 * 3600


async def test_code_that_is_no_job_shares_a_limit(app: Bananas) -> None:
    starts: list[float] = []
    now = most = 0

    async def paced(n: int) -> None:
        async with limiter(app, "api", "20/s"):
            starts.append(time.monotonic())

    async def few(n: int) -> None:
        nonlocal now, most
        async with limiter(app, "few", "2 at once", key="k"):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1

    async with app:
        await asyncio.gather(*(paced(n) for n in range(20)))
        await asyncio.gather(*(few(n) for n in range(5)))
        views = {view.name: view for view in await look(app.backend)}
    assert min(b - a for a, b in pairwise(sorted(starts))) > 0.02
    assert max(starts) - min(starts) > 0.9
    assert most == 2
    assert views["few"].used == 0


async def test_what_a_limit_can_not_mean_is_refused() -> None:
    app = memory_app()
    for wrong in (
        lambda: Limit(),
        lambda: Limit("1/s", concurrency=2),
        lambda: Limit("1/fortnight"),
        lambda: Limit(concurrency=2, cost=2),
        lambda: app.task(name="a", limits=Limit("1/s", key="{nobody}"))(_with_user),
    ):
        with pytest.raises(ConfigurationError):
            wrong()
    app.task(name="b", limits=Limit("1/s", name="shared"))(_with_user)
    app.task(name="c", limits=Limit("2/s", name="shared"))(_with_user)
    with pytest.raises(ConfigurationError, match="shared"):
        await app.open()


async def _with_user(user: int) -> None: ...
