"""Follow-ups and waiting jobs, wherever a call of the key-value ledger is cut short or held up.

The end of a node or of the holder of a unique key must be followed up. So whatever happens to the
call that ends it (its process dies, or is stopped for a while, before or after any single
primitive), ``due`` must bring up in the end what the records show: a follow-up for what has ended,
a send for what is pending. And when all is over, nothing may be left in the store.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bananas_brokers.memory.split import SplitResultBackend
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import (
    FINAL,
    ClaimBeat,
    Hint,
    Job,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    Ready,
    ReadyKind,
    RenewMode,
    Retention,
    Session,
    Settled,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.testing.clock import ManualClock

MESSAGE = b'{"v":1,"id":"job","name":"n","payload":{},"created_at":"2026-01-01T00:00:00Z"}'
IDS = ("node", "holder", "scope")
NONE = Retention(completed=0.0, failed=0.0, cancelled=0.0, quarantined=0.0, events=0.0)

Call = Callable[[], Awaitable[Any]]
Make = Callable[["World"], Awaitable[Call]]


class World:
    """One ledger with two clients: one that gets stuck at its ``point``, one that repairs."""

    def __init__(self, when: str, point: int, dies: bool) -> None:
        self.clock = ManualClock()
        self.when, self.left, self.dies = when, point, dies
        self.armed = False
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.told: dict[tuple[str, int], ReadyKind] = {}

    async def open(self) -> World:
        url = f"memory://{uuid.uuid4().hex}"
        self.victim = SplitResultBackend(url, "n", clock=self.clock)
        self.healer = SplitResultBackend(url, "n", clock=self.clock)
        await self.victim.open()
        await self.healer.open()
        self.victim.kv.hook = self._hold
        return self

    async def _hold(self, when: str, primitive: str) -> None:
        if not self.armed or when != self.when:
            return
        self.left -= 1
        if self.left < 0:
            self.armed = False
            self.reached.set()
            await self.go_on.wait()
            if self.dies:
                raise ResultBackendUnavailable(f"died {when} {primitive}")

    async def run(self, call: Call, held_for: float) -> bool:
        """Run ``call`` with time passing while it is held up; False if it never got there."""
        self.armed = True
        task = asyncio.ensure_future(call())
        reached = asyncio.ensure_future(self.reached.wait())
        await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
        reached.cancel()
        if self.reached.is_set():
            await self.pass_time(held_for, 0.5)
        self.go_on.set()
        try:
            await task
        except ResultBackendUnavailable:
            assert self.dies
        return self.reached.is_set()

    async def put(self, **options: Any) -> None:
        await self.healer.put(
            [
                JobPut(id="node", name="n", message=MESSAGE, workflow="w", **options),
                JobPut(id="holder", name="n", message=MESSAGE, unique="key", **options),
                JobPut(id="scope", name="", message=MESSAGE, workflow="w", scope=True, **options),
            ]
        )

    async def claim(self, session: str) -> list[Outcome]:
        """Completed outcomes of all that can be claimed now."""
        jobs = [job for job in await self.healer.get(IDS) if job is not None]
        hints = [Hint(id=job.id, gen=job.gen) for job in jobs]
        verdicts = await self.healer.claim(session, hints)
        return [
            Outcome(id=v.id, fence=v.claim.fence, kind=OutcomeKind.COMPLETED)
            for v in verdicts
            if v.kind is VerdictKind.RUN and v.claim is not None
        ]

    async def pass_time(self, seconds: float, step: float) -> None:
        for _ in range(int(seconds / step)):
            self.clock.advance(step)
            await self.due()

    async def due(self) -> None:
        ready, _ = await self.healer.due(100)
        assert len({item.id for item in ready}) == len(ready)
        for item in ready:
            self.told[item.id, item.gen] = item.kind

    async def heal(self) -> None:
        """Let ``due`` bring up all that is not settled, and check that it does."""
        self.told.clear()
        await self.pass_time(130.0, 2.0)  # longer than any hold by now
        for job in await self.jobs():
            kind = self.told.get((job.id, job.gen))
            if job.state is JobState.PENDING:
                assert kind is ReadyKind.SEND, job
            elif job.guard_at is not None:
                assert kind is ReadyKind.FOLLOW, job
                assert job.state in FINAL or job.unique is not None
            else:
                assert job.state not in FINAL or job.id in self.settled, f"not followed up: {job}"
                assert kind is None, job

    settled: tuple[str, ...] = ()

    async def jobs(self) -> list[Job]:
        return [job for job in await self.healer.get(IDS) if job is not None]

    async def finish_all(self) -> None:
        """End what is left, follow up all ends, and prune: nothing may remain."""
        ends = [
            Signal(id=job.id, kind=SignalKind.CANCEL)
            for job in await self.jobs()
            if job.state not in FINAL
        ]
        _, ready = await self.healer.signal(ends)
        assert {item.id for item in ready} == {end.id for end in ends}
        done = [Settled(id=j.id, gen=j.gen, followed=True) for j in await self.jobs()]
        await self.healer.put([], settled=done)
        assert all(job.guard_at is None for job in await self.jobs())
        self.told.clear()
        await self.pass_time(4_000.0, 50.0)
        assert self.told == {}
        await self.healer.prune(NONE, 100)
        await self.pass_time(700.0, 50.0)
        await self.healer.prune(NONE, 100)
        left = [entry.key for entry in await self.healer.kv.scan("", "", 1000)]
        assert [key for key in left if not key.startswith(("m/", "s/", "e/"))] == []


async def finish(world: World) -> Call:
    await world.put()
    outcomes = await world.claim("w")
    return lambda: world.victim.finish(outcomes)


async def cancel(world: World) -> Call:
    await world.put()
    return lambda: world.victim.signal([Signal(id=i, kind=SignalKind.CANCEL) for i in IDS])


async def release(world: World) -> Call:
    await world.put(waiting=True)
    return lambda: world.victim.signal([Signal(id=i, kind=SignalKind.RELEASE) for i in IDS])


async def end(world: World) -> Call:
    await world.put(waiting=True)
    wishes = [Signal(id=i, kind=SignalKind.END, state=JobState.COMPLETED) for i in IDS]
    return lambda: world.victim.signal(wishes)


async def reset(world: World) -> Call:
    await world.put()
    await world.healer.finish(await world.claim("w"))
    return lambda: world.victim.signal([Signal(id=i, kind=SignalKind.RESET, gen=1) for i in IDS])


async def retry(world: World) -> Call:
    await world.put(waiting=True)
    ends = [Signal(id=i, kind=SignalKind.END, state=JobState.FAILED) for i in IDS]
    await world.healer.signal(ends)
    return lambda: world.victim.signal([Signal(id=i, kind=SignalKind.RETRY) for i in IDS])


async def expire(world: World) -> Call:
    await world.put(waiting=True, expires_at=world.clock.now() + 3.0)
    world.clock.advance(3.0)
    return lambda: world.victim.due(100)


async def follow_again(world: World) -> Call:
    await world.put()
    await world.healer.finish(await world.claim("w"))
    world.clock.advance(6.0)
    return lambda: world.victim.due(100)


async def last_death(world: World) -> Call:
    await world.put()
    beats = []
    for n in range(3):
        outcomes = await world.claim(f"w{n}")
        beats = [ClaimBeat(id=o.id, fence=o.fence) for o in outcomes]
        if n < 2:
            await world.healer.renew(Session(id=f"w{n}", name="w"), beats, mode=RenewMode.ENDED)
    session = Session(id="w2", name="w")
    return lambda: world.victim.renew(session, beats, mode=RenewMode.ENDED)


async def last_lapse(world: World) -> Call:
    await world.put()
    for n in range(2):
        beats = [ClaimBeat(id=o.id, fence=o.fence) for o in await world.claim(f"w{n}")]
        await world.healer.renew(Session(id=f"w{n}", name="w"), beats, mode=RenewMode.ENDED)
    await world.claim("lost")
    for _ in range(8):
        world.clock.advance(2.0)
        await world.healer.due(0)
    return lambda: world.victim.due(100)


async def settle(world: World) -> Call:
    await world.put()
    await world.healer.finish(await world.claim("w"))
    world.settled = ("node", "holder")  # may be settled, and then nothing comes any more
    done = [Settled(id=i, gen=1, followed=True) for i in IDS]
    return lambda: world.victim.put([], settled=done)


CALLS = (
    finish,
    cancel,
    release,
    end,
    reset,
    retry,
    expire,
    follow_again,
    last_death,
    last_lapse,
    settle,
)


@pytest.mark.parametrize("dies", [False, True], ids=["goes on", "dies"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("make", CALLS, ids=lambda make: make.__name__)
async def test_no_follow_up_is_lost_wherever_a_call_gets_stuck(
    make: Make, when: str, dies: bool
) -> None:
    for held_for in (0.0, 8.0, 40.0):
        for point in range(200):
            world = await World(when, point, dies).open()
            held = await world.run(await make(world), held_for)
            await world.heal()
            await world.finish_all()
            if not held:
                break
        else:
            raise AssertionError("the call never came to its end")


async def test_a_call_tells_once_of_what_it_left_behind() -> None:
    """Several signals for one job: only what the last of them left counts."""
    world = await World("before", 0, False).open()
    await world.put(waiting=True)

    async def told(*kinds: SignalKind) -> list[tuple[ReadyKind, int]]:
        wishes = [Signal(id="node", kind=kind, state=JobState.COMPLETED) for kind in kinds]
        ready: list[Ready] = (await world.healer.signal(wishes))[1]
        return [(item.kind, item.gen) for item in ready]

    assert await told(SignalKind.END, SignalKind.RESET) == []
    assert await told(SignalKind.END, SignalKind.RESET, SignalKind.END, SignalKind.END) == [
        (ReadyKind.FOLLOW, 3)
    ]
    assert await told(SignalKind.END) == []
    assert await told(SignalKind.RESET, SignalKind.RELEASE) == [(ReadyKind.SEND, 4)]
    await world.pass_time(6.0, 1.0)
    assert world.told["node", 4] is ReadyKind.SEND
