"""Every call of the key-value ledger, interrupted after every single primitive.

For each n the call fails at its n-th primitive (once before it applies, once after). Then time
passes, ``due`` repairs, and a worker takes what there is: nothing may be lost, and no generation
may be claimed twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import pytest

from bananas_brokers.memory.split import SplitResultBackend
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import (
    FINAL,
    Claim,
    ClaimBeat,
    Hint,
    JobPut,
    Outcome,
    OutcomeKind,
    RenewMode,
    Session,
    Signal,
    SignalKind,
    VerdictKind,
)
from bananas_core.state import CLAIM_TTL
from bananas_core.testing.clock import ManualClock

MESSAGE = b'{"v":1,"id":"job","name":"n","payload":{},"created_at":"2026-01-01T00:00:00Z"}'


class World:
    """One ledger with two clients: one that is interrupted, one that repairs."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.name = uuid.uuid4().hex
        self.claims: list[tuple[str, int, int]] = []
        self.left = -1
        self.budget = 0
        self.when = "before"

    async def open(self) -> World:
        self.victim = SplitResultBackend(f"memory://{self.name}", "n", clock=self.clock)
        self.healer = SplitResultBackend(f"memory://{self.name}", "n", clock=self.clock)
        await self.victim.open()
        await self.healer.open()
        self.victim.kv.hook = self._cut
        return self

    async def _cut(self, when: str, primitive: str) -> None:
        if when != self.when:
            return
        if self.left == 0:
            raise ResultBackendUnavailable(f"cut {when} {primitive}")
        self.left -= 1

    async def put(self, backend: SplitResultBackend, count: int = 3) -> None:
        await backend.put([JobPut(id=f"j{n}", name="n", message=MESSAGE) for n in range(count)])

    async def claim(self, backend: SplitResultBackend, session: str) -> list[Claim]:
        """Claim whatever is pending, by its current generation."""
        jobs = await self.healer.get([f"j{n}" for n in range(3)])
        hints = [Hint(id=job.id, gen=job.gen) for job in jobs if job is not None]
        found = []
        for verdict in await backend.claim(session, hints):
            if verdict.kind is VerdictKind.RUN:
                assert verdict.claim is not None
                claim = verdict.claim
                assert (claim.id, claim.gen, claim.fence) not in self.claims
                self.claims.append((claim.id, claim.gen, claim.fence))
                found.append(claim)
        return found

    async def settle(self) -> None:
        """Let a healthy worker finish everything; nothing may remain."""
        session = Session(id="healthy", name="healthy")
        for _ in range(60):
            await self.healer.renew(session, [], mode=RenewMode.FULL)
            await self.healer.due(100)
            claims = await self.claim(self.healer, "healthy")
            done = [Outcome(id=c.id, fence=c.fence, kind=OutcomeKind.COMPLETED) for c in claims]
            await self.healer.finish(done)
            jobs = await self.healer.get([f"j{n}" for n in range(3)])
            if all(job is None or job.state in FINAL for job in jobs):
                return
            self.clock.advance(2.0)
        raise AssertionError(f"never settled: {jobs}")


Call = Callable[[World], Awaitable[object]]


async def put(world: World) -> object:
    return await world.put(world.victim)


async def claim(world: World) -> object:
    return await world.claim(world.victim, "victim")


async def finish(world: World) -> object:
    claims = await world.claim(world.healer, "victim")
    kinds = (OutcomeKind.COMPLETED, OutcomeKind.RETRY, OutcomeKind.FAILED)
    outcomes = [
        Outcome(id=c.id, fence=c.fence, kind=kind, delay=3.0)
        for c, kind in zip(claims, kinds, strict=True)
    ]
    world.left = world.budget
    return await world.victim.finish(outcomes)


async def lapse(world: World) -> object:
    await world.claim(world.healer, "lost")
    for _ in range(int(CLAIM_TTL / 2) + 1):
        world.clock.advance(2.0)
        await world.healer.due(0)
    world.left = world.budget
    return await world.victim.due(100)


async def end(world: World) -> object:
    claims = await world.claim(world.healer, "victim")
    beats = [ClaimBeat(id=c.id, fence=c.fence) for c in claims[:1]]
    world.left = world.budget
    return await world.victim.renew(Session(id="victim", name="v"), beats, mode=RenewMode.ENDED)


async def retry(world: World) -> object:
    claims = await world.claim(world.healer, "victim")
    await world.healer.finish(
        [Outcome(id=c.id, fence=c.fence, kind=OutcomeKind.FAILED) for c in claims]
    )
    world.left = world.budget
    return await world.victim.signal([Signal(id="j0", kind=SignalKind.RETRY)])


async def due(world: World) -> object:
    world.clock.advance(6.0)
    world.left = world.budget
    return await world.victim.due(100)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [put, claim, finish, lapse, end, retry, due])
async def test_nothing_is_lost_or_claimed_twice_wherever_the_call_is_cut(
    call: Call, when: str
) -> None:
    for cut in range(200):
        world = await World().open()
        world.when = when
        world.budget = cut
        if call is not put:
            await world.put(world.healer)
        if call in (put, claim):
            world.left = cut
        try:
            await call(world)
        except ResultBackendUnavailable:
            interrupted = True
        else:
            interrupted = False
        world.left = -1
        if call is put and interrupted:
            await world.put(world.healer)  # the submitter tries again with the same ids
        await world.settle()
        jobs = await world.healer.get(["j0", "j1", "j2"])
        assert all(job is not None for job in jobs)
        for job in jobs:
            assert job is not None
            assert [entry.outcome for entry in job.attempts].count("completed") <= 1
        if not interrupted:
            return
    raise AssertionError("the call never came to its end")
