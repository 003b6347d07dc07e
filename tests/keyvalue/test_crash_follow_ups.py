"""Every call of the key-value ledger that ends nodes, interrupted after every single primitive:
whoever was to follow up an end may be gone, and ``due`` asks somebody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from test_crash_points import MESSAGE, World

from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import (
    FINAL,
    ClaimBeat,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    RenewMode,
    Session,
    Settled,
    Signal,
    SignalKind,
)
from bananas_core.state import MAX_DEATHS
from bananas_core.testing.conformance.support import follow_ups

IDS = ("j0", "j1", "j2")
HOUR = 3600.0

Call = Callable[[World], Awaitable[object]]


async def put(world: World, **options: float) -> None:
    """Nodes that wait."""
    await world.healer.put(
        [
            JobPut(id=i, name="n", message=MESSAGE, waiting=True, workflow="w", **options)
            for i in IDS
        ]
    )


async def running(world: World) -> list[Outcome]:
    """Nodes that run, and how they end."""
    await put(world)
    await world.healer.signal([Signal(id=i, kind=SignalKind.RELEASE) for i in IDS])
    kinds = (OutcomeKind.COMPLETED, OutcomeKind.FAILED, OutcomeKind.CANCELLED)
    claims = await world.claim(world.healer, "victim")
    return [
        Outcome(id=c.id, fence=c.fence, kind=kind) for c, kind in zip(claims, kinds, strict=True)
    ]


async def finish(world: World) -> object:
    outcomes = await running(world)
    world.left = world.budget
    return await world.victim.finish(outcomes)


async def renew(world: World) -> object:
    outcomes = await running(world)
    for _ in range(MAX_DEATHS - 1):
        await world.healer.finish(
            [Outcome(id=o.id, fence=o.fence, kind=OutcomeKind.DIED) for o in outcomes]
        )
        claims = await world.claim(world.healer, "victim")
        outcomes = [Outcome(id=c.id, fence=c.fence, kind=OutcomeKind.DIED) for c in claims]
    beats = [ClaimBeat(id=o.id, fence=o.fence) for o in outcomes]
    world.left = world.budget
    return await world.victim.renew(Session(id="victim", name="v"), beats, mode=RenewMode.ENDED)


async def end(world: World) -> object:
    await put(world)
    wishes = [Signal(id=i, kind=SignalKind.END, state=JobState.FAILED) for i in IDS]
    world.left = world.budget
    return await world.victim.signal(wishes)


async def cancel(world: World) -> object:
    await put(world)
    world.left = world.budget
    return await world.victim.signal([Signal(id=i, kind=SignalKind.CANCEL) for i in IDS])


async def expire(world: World) -> object:
    await put(world, expires_at=world.clock.now() + 1.0)
    world.clock.advance(2.0)
    world.left = world.budget
    return await world.victim.due(100)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [finish, renew, end, cancel, expire])
async def test_every_end_is_followed_up_wherever_the_call_is_cut(call: Call, when: str) -> None:
    for cut in range(300):
        world = await World().open()
        world.when, world.budget = when, cut
        try:
            await call(world)
        except ResultBackendUnavailable:
            interrupted = True
        else:
            interrupted = False
        world.left = -1
        told = await heal(world)
        for job in await world.healer.get(IDS):
            assert job is not None
            assert job.state in FINAL
            assert (job.id, job.gen) in told, f"cut {cut} {when}: nobody follows up {job}"
            settled = Settled(id=job.id, gen=job.gen, followed=True)
            await world.healer.put([], settled=[settled])
        world.clock.advance(HOUR)
        assert (await world.healer.due(100))[0] == []
        if not interrupted:
            return
    raise AssertionError("the call never came to its end")


async def heal(world: World) -> set[tuple[str, int]]:
    """A healthy worker lets everything end; what it was told of."""
    told: set[tuple[str, int]] = set()
    for _ in range(30):
        release = [Signal(id=i, kind=SignalKind.RELEASE) for i in IDS]
        told.update(follow_ups((await world.healer.signal(release))[1]))
        claims = await world.claim(world.healer, "healthy")
        _, ready = await world.healer.finish(
            [Outcome(id=c.id, fence=c.fence, kind=OutcomeKind.COMPLETED) for c in claims]
        )
        told.update(follow_ups(ready))
        await world.healer.renew(Session(id="healthy", name="healthy"), [], mode=RenewMode.FULL)
        told.update(follow_ups((await world.healer.due(100))[0]))
        world.clock.advance(2.0)
    return told
