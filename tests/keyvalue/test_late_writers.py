"""A call stands still between two of its requests, and others do just what hurts most meanwhile."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from bananas_brokers.memory.split import SplitResultBackend
from bananas_core.errors import CursorExpired
from bananas_core.job import (
    ClaimBeat,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    Ready,
    ReadyKind,
    Retention,
    Session,
    Settled,
    Signal,
    SignalKind,
    Write,
)
from bananas_core.keyvalue import prune
from bananas_core.testing.clock import ManualClock

MESSAGE = b'{"v":1,"id":"job","name":"n","payload":{},"created_at":"2026-01-01T00:00:00Z"}'
JOB = JobPut(id="j", name="n", message=MESSAGE)
NODE = JobPut(id="j", name="n", message=MESSAGE, workflow="w")
NONE = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0)
SESSION = Session(id="s", name="s")


class Gate:
    """Holds up the call that has asked for a number of primitives, until it is opened."""

    def __init__(self, point: int) -> None:
        self._left = point
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, when: str, primitive: str) -> None:
        if when == "before" and not self.reached.is_set():
            self._left -= 1
            if self._left < 0:
                self.reached.set()
                await self.open.wait()


class World:
    """One ledger, a client that gets held up, and one that goes on."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        url = f"memory://{uuid.uuid4().hex}"
        self.slow = SplitResultBackend(url, "n", clock=self.clock)
        self.quick = SplitResultBackend(url, "n", clock=self.clock)

    async def held(
        self, call: Callable[[], Awaitable[Any]], point: int, meanwhile: Callable[[], Any]
    ) -> bool:
        """Run ``call``, and ``meanwhile`` before its n-th request; False if it makes fewer."""
        gate = self.slow.kv.hook = Gate(point)
        task = asyncio.ensure_future(call())
        reached = asyncio.ensure_future(gate.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        try:
            if gate.reached.is_set():
                await meanwhile()
        finally:
            gate.open.set()
            await task
            self.slow.kv.hook = None
        return gate.reached.is_set()

    async def job(self) -> Job:
        (job,) = await self.quick.get(["j"])
        assert job is not None
        return job

    async def pass_time(self, seconds: float, step: float = 1.0) -> list[Ready]:
        found: list[Ready] = []
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            found += (await self.quick.due(100))[0]
        return found

    async def finish(self, kind: OutcomeKind = OutcomeKind.COMPLETED) -> None:
        fence = (await self.job()).fence
        await self.quick.finish([Outcome(id="j", fence=fence, kind=kind)])


@pytest.fixture
async def make() -> AsyncIterator[Callable[[], Awaitable[World]]]:
    """Opens worlds; closes them at the end."""
    worlds: list[World] = []

    async def open() -> World:
        world = World()
        worlds.append(world)
        await world.slow.open()
        await world.quick.open()
        return world

    yield open
    for world in worlds:
        await world.slow.close()
        await world.quick.close()


Make = Callable[[], Awaitable[World]]


async def test_a_late_claim_does_not_take_the_guard_of_the_end(make: Make) -> None:
    """Sent, claimed and ended within one tick of the clock: both guards fall on one instant."""
    for point in range(100):
        world = await make()
        await world.quick.put([NODE])

        async def end(world: World = world) -> None:
            if (await world.job()).state is JobState.PROCESSING:
                await world.finish()

        hints = [Hint(id="j", gen=1)]
        held = await world.held(lambda w=world, h=hints: w.slow.claim("s", h), point, end)  # type: ignore[misc]
        await end()
        ready = await world.pass_time(10.0)
        assert [item.kind for item in ready] == [ReadyKind.FOLLOW]
        if not held:
            return
    raise AssertionError("the claim never came to its end")


async def test_a_record_that_comes_while_due_looks_for_it_keeps_its_guard(make: Make) -> None:
    """A ``put`` is so slow that its guard fires twice before its record is there."""
    for put_point in range(1, 6):
        for due_point in range(100):
            world = await make()

            ends: list[tuple[Gate, asyncio.Future[Any]]] = []

            async def look(
                world: World = world,
                point: int = due_point,
                ends: list[tuple[Gate, asyncio.Future[Any]]] = ends,
            ) -> None:
                await world.pass_time(6.0)
                world.clock.advance(5.0)
                gate = world.quick.kv.hook = Gate(point)
                due = asyncio.ensure_future(world.quick.due(100))
                reached = asyncio.ensure_future(gate.reached.wait())
                await asyncio.wait({due, reached}, return_when=asyncio.FIRST_COMPLETED)
                reached.cancel()
                ends.append((gate, due))

            if not await world.held(lambda w=world: w.slow.put([JOB]), put_point, look):  # type: ignore[misc]
                break
            (gate, due) = ends[0]
            gate.open.set()
            ready = [*(await due)[0], *await world.pass_time(10.0)]
            assert "j" in [item.id for item in ready], (put_point, due_point)
            world.quick.kv.hook = None
            if not gate.reached.is_set():
                break
        else:
            raise AssertionError("due never came to its end")


async def test_no_event_is_told_again_after_later_ones(make: Make) -> None:
    """A reader closes the page of a call that then goes on after all."""
    for point in range(100):
        world = await make()
        await world.quick.put([JOB])

        async def go_on(world: World = world) -> None:
            await world.pass_time(4.0)
            world.clock.advance(3.0)
            assert (await world.quick.events("")).events
            if (await world.job()).state is JobState.PROCESSING:
                await world.finish()

        hints = [Hint(id="j", gen=1)]
        held = await world.held(lambda w=world, h=hints: w.slow.claim("s", h), point, go_on)  # type: ignore[misc]
        world.clock.advance(10.0)
        if (await world.job()).state is JobState.PROCESSING:
            await world.finish()
        news = [event.new for event in (await world.quick.events("")).events]
        assert news == [JobState.PENDING, JobState.PROCESSING, JobState.COMPLETED], point
        if not held:
            return
    raise AssertionError("the claim never came to its end")


async def test_a_late_prune_does_not_bring_back_old_cursors(make: Make) -> None:
    for point in range(100):
        world = await make()
        cursor = (await world.quick.events("$")).cursor
        await world.quick.put([JOB])
        world.clock.advance(5_000.0)
        policy = Retention(events=3_600.0)

        middle: list[str] = []

        async def prune_more(
            world: World = world, policy: Retention = policy, middle: list[str] = middle
        ) -> None:
            middle.append((await world.quick.events("$")).cursor)
            await world.quick.signal([Signal(id="j", kind=SignalKind.CANCEL)])
            world.clock.advance(5_000.0)
            await world.quick.prune(policy, 100)

        held = await world.held(
            lambda w=world, p=policy: w.slow.prune(p, 100),  # type: ignore[misc]
            point,
            prune_more,
        )
        for old in [cursor, *middle]:  # also behind what the slow one pruned
            with pytest.raises(CursorExpired):
                await world.quick.events(old)
        if not held:
            return
    raise AssertionError("prune never came to its end")


async def test_a_cursor_that_is_pruned_while_it_is_read_has_expired(make: Make) -> None:
    for point in range(100):
        world = await make()
        cursor = (await world.quick.events("$")).cursor
        await world.quick.put([JOB])
        await world.quick.signal([Signal(id="j", kind=SignalKind.CANCEL)])
        world.clock.advance(5_000.0)
        await world.quick.put([JobPut(id="k", name="n", message=MESSAGE)])
        world.clock.advance(10.0)
        pages: list[Any] = []

        async def read(world: World = world, pages: list[Any] = pages, at: str = cursor) -> None:
            try:
                pages.append(await world.slow.events(at))
            except CursorExpired:
                pages.append(None)

        async def prune_it(world: World = world) -> None:
            await world.quick.prune(Retention(events=3_600.0), 100)

        held = await world.held(read, point, prune_it)
        assert pages[0] is None or not pages[0].events or len(pages[0].events) == 3
        if pages[0] is not None and not pages[0].events:
            with pytest.raises(CursorExpired):
                await world.quick.events(pages[0].cursor)
        if not held:
            return
    raise AssertionError("the read never came to its end")


async def test_a_session_that_is_back_loses_nothing_to_a_late_lapse(make: Make) -> None:
    for point in range(100):
        world = await make()
        await world.quick.put([JOB])
        await world.quick.claim("s", [Hint(id="j", gen=1)])
        for _ in range(8):
            world.clock.advance(2.0)
            await world.quick.due(0)

        async def renew(world: World = world, times: int = 4) -> None:
            for _ in range(times):
                job = await world.job()
                beats = [ClaimBeat(id="j", fence=1)] if job.state is JobState.PROCESSING else []
                await world.quick.renew(SESSION, beats)
                world.clock.advance(6.0)

        held = await world.held(lambda w=world: w.slow.due(100), point, renew)  # type: ignore[misc]
        before = await world.job()
        await renew(times=2)
        job = await world.job()
        assert job.deaths == 0, f"{point}: {job}"
        assert job.state is before.state
        if not held:
            return
    raise AssertionError("due never came to its end")


async def test_a_very_late_end_is_pruned_in_its_turn(make: Make) -> None:
    """``finish`` hangs for an hour, while its session is alive; meanwhile others prune."""
    for point in range(100):
        world = await make()
        await world.quick.put([JOB])
        await world.quick.claim("s", [Hint(id="j", gen=1)])

        async def wait(world: World = world) -> None:
            for _ in range(360):
                world.clock.advance(10.0)
                await world.quick.renew(SESSION, [ClaimBeat(id="j", fence=1)])
            await world.quick.prune(NONE, 100)

        done = [Outcome(id="j", fence=1, kind=OutcomeKind.COMPLETED)]
        held = await world.held(lambda w=world, d=done: w.slow.finish(d), point, wait)  # type: ignore[misc]
        if await world.quick.get(["j"]) != [None]:  # else it had ended before it hung
            assert (await world.job()).state is JobState.COMPLETED
            world.clock.advance(5_000.0)
            assert await world.quick.prune(NONE, 100) == 1
        if not held:
            return
    raise AssertionError("finish never came to its end")


async def test_what_must_stay_is_passed_over_once_in_a_round(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes of a live workflow are in front of all that may go, more than one call looks at."""
    monkeypatch.setattr(prune, "PASSED", 10)
    monkeypatch.setattr(prune, "PAGE", 5)
    for policy in (NONE, Retention(most=0)):
        world = await make()
        scope = JobPut(id="w", name="", message=MESSAGE, workflow="w", scope=True)
        nodes = [JobPut(id=f"n{n:02}", name="n", message=MESSAGE, workflow="w") for n in range(30)]
        await world.quick.put([scope, *nodes])
        await world.quick.signal([Signal(id=n.id, kind=SignalKind.CANCEL) for n in nodes])
        await world.quick.put([], settled=[Settled(id=n.id, gen=2, followed=True) for n in nodes])
        world.clock.advance(1.0)
        await world.quick.put([JOB])
        await world.quick.signal([Signal(id="j", kind=SignalKind.CANCEL)])
        world.clock.advance(1_000.0)
        reads = 0

        async def count(when: str, primitive: str) -> None:
            nonlocal reads
            reads += 1

        world.quick.kv.hook = count
        gone = []
        for _ in range(4):
            gone.append(await world.quick.prune(policy, 100))
            assert reads < 100
            reads = 0
        assert sum(gone) == 1
        assert await world.quick.get(["j"]) == [None]
        assert None not in await world.quick.get([node.id for node in nodes])
        world.quick.kv.hook = None
        await world.quick.signal([Signal(id="w", kind=SignalKind.CANCEL)])
        await world.quick.put([], settled=[Settled(id="w", gen=2, followed=True)])
        world.clock.advance(1_000.0)
        left = [await world.quick.prune(policy, 100) for _ in range(4)]
        assert sum(left) == 31


async def test_a_job_that_is_retried_while_it_is_pruned_is_whole_or_gone(make: Make) -> None:
    for point in range(100):
        world = await make()
        await world.quick.put([JOB])
        await world.quick.claim("s", [Hint(id="j", gen=1)])
        await world.finish(OutcomeKind.FAILED)
        await world.quick.cas([Write(key="job/j/log", value=b"x")])
        world.clock.advance(5_000.0)
        answers: list[Any] = []

        async def retry(world: World = world, answers: list[Any] = answers) -> None:
            wish = Signal(id="j", kind=SignalKind.RETRY)
            answers.extend((await world.quick.signal([wish]))[0])

        held = await world.held(lambda w=world: w.slow.prune(NONE, 100), point, retry)  # type: ignore[misc]
        (job,) = await world.quick.get(["j"])
        docs = await world.quick.docs("job/j/")
        if answers and answers[0].done:
            assert job is not None
            assert job.state is JobState.PENDING
            assert len(docs) == 1
            ready = await world.pass_time(10.0)
            assert [item.id for item in ready] == ["j"]
        else:
            assert job is None
            assert docs == []
        if not held:
            return
    raise AssertionError("prune never came to its end")
