"""Many clients of one key-value ledger at once: conflicts, lost replies, cancelled calls."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bananas_brokers.memory.kvstore import StoreFaults
from bananas_brokers.memory.split import SplitResultBackend
from bananas_core.errors import ResultBackendUnavailable
from bananas_core.job import (
    FINAL,
    Claim,
    ClaimBeat,
    Hint,
    JobPut,
    JobState,
    Outcome,
    OutcomeKind,
    RenewMode,
    Session,
    VerdictKind,
)
from bananas_core.testing.clock import ManualClock

MESSAGE = b'{"v":1,"id":"job","name":"n","payload":{},"created_at":"2026-01-01T00:00:00Z"}'
CLIENTS = 16
JOBS = 240
FAULTS = StoreFaults(conflict=0.05, lost_reply=0.004)


class Client:
    """One worker: its own connection, session and luck."""

    def __init__(self, world: World, number: int) -> None:
        self.rng = random.Random(f"{world.seed}-{number}")
        self.backend = SplitResultBackend(
            world.url, "n", clock=world.clock, rng=self.rng, faults=FAULTS
        )
        self.session = Session(id=f"worker-{number}", name="w")
        self.world = world
        self.held: dict[str, Claim] = {}
        self.turns = 0

    async def tries(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """The answer, or None when it is unknown; sometimes nobody waits for it."""
        task = asyncio.ensure_future(call())
        if self.rng.random() < 0.02:
            for _ in range(self.rng.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
        try:
            return await task
        except (ResultBackendUnavailable, asyncio.CancelledError):
            return None

    async def run(self) -> None:
        while not self.world.over:
            await self.turn()

    async def turn(self) -> None:
        self.turns += 1
        beats = [ClaimBeat(id=claim.id, fence=claim.fence) for claim in self.held.values()]
        answer = await self.tries(lambda: self.backend.renew(self.session, beats))
        if answer is not None:
            for job_id, _ in answer.lost:
                self.held.pop(job_id, None)
        ids = self.rng.sample(self.world.ids, 12)
        jobs = await self.tries(lambda: self.backend.get(ids)) or []
        hints = [Hint(id=job.id, gen=job.gen) for job in jobs if job is not None]
        for verdict in await self.tries(lambda: self.backend.claim(self.session.id, hints)) or []:
            if verdict.kind is VerdictKind.RUN:
                self.world.ran(verdict.claim)
                self.held[verdict.id] = verdict.claim
        outcomes = [self.outcome(claim) for claim in self.held.values()]
        while outcomes:  # an unknown answer is cured by asking again
            answers = await self.tries(lambda: self.backend.finish(outcomes))
            if answers is not None:
                break
        self.held.clear()

    def outcome(self, claim: Claim) -> Outcome:
        kind = self.rng.choice(
            [OutcomeKind.COMPLETED] * 3
            + [OutcomeKind.RETRY, OutcomeKind.SNOOZE, OutcomeKind.HANDBACK, OutcomeKind.FAILED]
        )
        return Outcome(id=claim.id, fence=claim.fence, kind=kind, delay=self.rng.choice([0.0, 3.0]))


class World:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.url = f"memory://{uuid.uuid4().hex}"
        self.clock = ManualClock()
        self.ids = [f"j{n}" for n in range(JOBS)]
        self.runs: set[tuple[str, int]] = set()
        self.fences: set[tuple[str, int]] = set()
        self.over = False

    def ran(self, claim: Claim) -> None:
        """One run a generation, and a fence of its own for each."""
        assert (claim.id, claim.gen) not in self.runs
        assert (claim.id, claim.fence) not in self.fences
        self.runs.add((claim.id, claim.gen))
        self.fences.add((claim.id, claim.fence))

    async def submit(self, client: Client) -> None:
        for begin in range(0, JOBS, 20):
            jobs = [
                JobPut(id=i, name="n", message=MESSAGE, delay=client.rng.choice([None, None, 1.0]))
                for i in self.ids[begin : begin + 20]
            ]
            while await client.tries(lambda jobs=jobs: client.backend.put(jobs)) is None:
                pass

    async def pass_time(self, healer: Client, calm: SplitResultBackend) -> None:
        """Time goes on while everybody works, until all jobs are final."""
        for _ in range(400):
            for _ in range(100):
                await asyncio.sleep(0)
            self.clock.advance(1.0)
            await healer.tries(lambda: healer.backend.due(500))
            jobs = await calm.get(self.ids)
            if all(job is not None and job.state in FINAL for job in jobs):
                return
        raise AssertionError([job for job in jobs if job is None or job.state not in FINAL][:3])


@pytest.mark.parametrize("seed", range(3))
async def test_many_clients_lose_and_double_nothing(seed: int) -> None:
    world = World(seed)
    calm = SplitResultBackend(world.url, "n", clock=world.clock)
    await calm.open()
    clients = [Client(world, number) for number in range(CLIENTS)]
    for client in clients:
        while True:
            try:
                await client.backend.open()
                break
            except ResultBackendUnavailable:
                continue
    submitting = asyncio.ensure_future(world.submit(clients[0]))
    working = [asyncio.ensure_future(client.run()) for client in clients[1:-1]]
    try:
        await world.pass_time(clients[-1], calm)
    finally:
        world.over = True
        results = await asyncio.gather(submitting, *working, return_exceptions=True)
    assert [result for result in results if result is not None] == []
    assert len(world.runs) > JOBS  # many ran more than once, one generation after the other
    for job in await calm.get(world.ids):
        assert job is not None
        outcomes = [entry.outcome for entry in job.attempts]
        assert None not in outcomes
        assert outcomes.count("completed") == (1 if job.state is JobState.COMPLETED else 0)
        assert len({entry.fence for entry in job.attempts}) == len(outcomes)
    # Nothing is left behind: the indexes of what is over are cleaned up.
    for client in clients:
        await calm.renew(client.session, [], mode=RenewMode.ENDED)
    for _ in range(150):
        world.clock.advance(10.0)
        await calm.due(500)
    assert await calm.kv.scan("d/", "", 10) == []
    assert await calm.kv.scan("c/", "", 10) == []
