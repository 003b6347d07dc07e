"""A ledger decides as ``state.py`` does: whatever is done to both, it and the memory ledger hold
the same records, and give the same answers."""

from __future__ import annotations

import random
from typing import Any

from msgspec.structs import replace

from bananas_brokers.memory.results import MemoryResultBackend
from bananas_brokers.memory.transport import MemoryTransport
from bananas_core.alike import Alike
from bananas_core.job import (
    ClaimBeat,
    Hint,
    Job,
    JobState,
    Outcome,
    OutcomeKind,
    Progress,
    RenewMode,
    Retention,
    Session,
    Settled,
    Signal,
    SignalKind,
)
from bananas_core.pair import Pair
from bananas_core.testing.clock import ManualClock
from bananas_core.testing.conformance.support import ERROR, a_job, a_scope

QUEUES = ["a", "b"]


class Twins:
    """Two ledgers that are told the same. A fence is named by its place in the timeline."""

    def __init__(self, one: Pair, other: Pair, clock: ManualClock, rng: random.Random) -> None:
        self.pairs = (one, other)
        self.clock, self.rng = clock, rng
        self.ids: list[str] = []

    async def both(self, call: Any, plain: Any = lambda answer: answer) -> None:
        """Ask both; the answers must be the same."""
        found = [plain(await call(pair)) for pair in self.pairs]
        assert found[0] == found[1]

    async def same(self) -> list[Job]:
        """All records, which must be the same in both."""
        records = [await pair.backend.get(self.ids) for pair in self.pairs]
        found = [[unfenced(job) for job in jobs] for jobs in records]
        for one, other in zip(*found, strict=True):
            assert one == other
        return [job for job in records[0] if job is not None]

    async def fences(self, ids: list[str]) -> list[dict[str, int]]:
        jobs = [await pair.backend.get(ids) for pair in self.pairs]
        return [{job.id: job.fence for job in some if job is not None} for some in jobs]

    async def step(self) -> None:
        jobs = await self.same()
        names = [job.id for job in jobs]
        some = self.rng.sample(names, min(len(names), self.rng.randint(1, 6)))
        what = self.rng.randrange(11)
        if what <= 1:
            await self.put()
        elif what == 2:
            await self.receive()
        elif what == 3:
            hints = [Hint(id=j.id, gen=j.gen) for j in jobs if j.id in some]
            session = self.rng.choice("st")
            await self.both(
                lambda p: p.backend.claim(session, hints),
                lambda vs: [(v.kind, v.id, v.claim and unfenced_claim(v.claim)) for v in vs],
            )
        elif what <= 6:
            await self.finish([j for j in jobs if j.state is JobState.PROCESSING])
        elif what == 7:
            wishes = [self.wish(job_id) for job_id in some]
            await self.both(lambda p: p.backend.signal(wishes), answers)
        elif what == 8:
            await self.renew([j for j in jobs if j.state is JobState.PROCESSING])
        elif what == 9:
            items = [Settled(id=j.id, gen=j.gen, followed=j.followed) for j in jobs if j.id in some]
            await self.both(lambda p: p.backend.put([], settled=items))
        else:
            policy = Retention(completed=700.0, failed=900.0, events=60.0)
            await self.both(lambda p: p.backend.prune(policy, 1000))
        self.clock.advance(self.rng.choice([0.0, 0.001, 1.0, 4.0, 4.0, 100.0]))
        for _ in range(3):
            await self.both(lambda p: p.backend.due(1000), answers)

    async def put(self) -> None:
        rng, now = self.rng, self.clock.now()
        puts = [
            a_job(rng.choice(QUEUES), priority=rng.choice([10, 50]))
            for _ in range(rng.randint(1, 9))
        ]
        puts += [
            a_job(rng.choice(QUEUES), **options)
            for options in rng.sample(
                [
                    {"delay": 3.0},
                    {"run_at": now + 2.0},
                    {"expires_at": now + 5.0},
                    {"queue_timeout": 5.0},
                    {"tags": ("x",)},
                    {"workflow": "w", "waiting": True},
                    {"workflow": "w"},
                    {"unique": "k"},
                    {"unique": "k", "waiting": True},
                    {"quarantine": ERROR, "name": ""},
                ],
                2,
            )
        ]
        if rng.random() < 0.2:
            puts.append(a_scope(queue_timeout=50.0))
        if self.ids and rng.random() < 0.3:
            puts.append(a_job(id=rng.choice(self.ids)))
        rng.shuffle(puts)
        self.ids += [put.id for put in puts if put.id not in self.ids]
        await self.both(lambda p: p.backend.put(puts))
        if rng.random() < 0.5:
            await self.put_alike()

    async def put_alike(self) -> None:
        """Jobs of a kind together, or a lone one; some of them once more."""
        rng = self.rng
        like = a_job(routing_key=rng.choice(QUEUES), priority=rng.choice([0, 50, 100]))
        if rng.random() < 0.2:
            like = replace(like, queue_timeout=50.0)
        jobs = [a_job() for _ in range(rng.choice([1, 1, 2, 130]))]
        for _ in range(rng.choice([1, 1, 2])):
            ids, messages = [job.id for job in jobs], [job.message for job in jobs]
            same = Alike(like, ids, messages)
            await self.both(lambda p, same=same: p.backend.put(same))
            jobs = jobs[rng.randrange(len(jobs)) :] + [a_job() for _ in range(rng.choice([0, 3]))]
            self.ids += [job for job in ids if job not in self.ids]

    async def receive(self) -> None:
        session = self.rng.choice("st")

        async def all_there_is(pair: Pair) -> list[tuple[str, str]]:
            found = []
            while some := await pair.transport.receive_claimed(session, QUEUES, 100, 0):
                found += [(i.verdict.id, repr(unfenced_claim(i.verdict.claim))) for i in some]
            return sorted(found)

        await self.both(all_there_is)

    async def finish(self, running: list[Job]) -> None:
        rng = self.rng
        chosen = rng.sample(running, min(len(running), rng.randint(1, 8)))
        kinds = {job.id: rng.choice([*OutcomeKind, OutcomeKind.COMPLETED]) for job in chosen}
        ran = {job.id: rng.choice([None, 0.0, 0.5]) for job in chosen}
        told = {job.id: rng.random() < 0.2 for job in chosen}
        fences = await self.fences([job.id for job in chosen])
        outcomes = [
            [
                Outcome(
                    id=job.id,
                    fence=mine[job.id],
                    kind=kinds[job.id],
                    result=b"1" if kinds[job.id] is OutcomeKind.COMPLETED else None,
                    error=ERROR,
                    delay=2.0,
                    ran=ran[job.id],
                    progress=Progress(value=1.0) if told[job.id] else None,
                )
                for job in chosen
            ]
            for mine in fences
        ]
        for _ in range(rng.choice([1, 1, 2])):  # and again, as after a lost answer
            found = [
                answers(await pair.backend.finish(mine))
                for pair, mine in zip(self.pairs, outcomes, strict=True)
            ]
            assert found[0] == found[1]

    async def renew(self, running: list[Job]) -> None:
        rng, session = self.rng, self.rng.choice("st")
        chosen = [job for job in running if rng.random() < 0.7]
        mode = rng.choice(list(RenewMode))
        found = []
        for pair, mine in zip(self.pairs, await self.fences([j.id for j in chosen]), strict=True):
            beats = [
                ClaimBeat(id=i, fence=fence, progress=Progress(value=0.5))
                for i, fence in mine.items()
            ]
            answer = await pair.backend.renew(Session(id=session, name="n"), beats, mode=mode)
            lost = sorted(job_id for job_id, _ in answer.lost)
            found.append((answer.now, answer.cancelled, lost, plain_ready(answer.ready)))
        assert found[0] == found[1]

    def wish(self, job_id: str) -> Signal:
        rng = self.rng
        kind = rng.choice([*SignalKind, SignalKind.CHANGE])
        return Signal(
            id=job_id,
            kind=kind,
            by="me",
            reason="why",
            priority=rng.choice([None, 90]),
            delay=rng.choice([None, 2.0]),
            state=rng.choice([JobState.COMPLETED, JobState.FAILED]),
            result=b"2",
        )


def unfenced(job: Job | None) -> Job | None:
    if job is None:
        return None
    attempts = tuple(replace(entry, fence=0) for entry in job.attempts)
    return replace(job, fence=0, attempts=attempts)


def unfenced_claim(claim: Any) -> Any:
    return replace(claim, fence=0)


def plain_ready(ready: Any) -> Any:
    return sorted((r.kind, r.id, r.gen, r.head, r.message) for r in ready)


def answers(found: Any) -> Any:
    first, ready = found
    if isinstance(ready, bool):  # of `due`
        return plain_ready(first), ready
    return first, plain_ready(ready)


async def do_the_same(pair: Pair, namespace: str, clock: ManualClock, seed: int) -> None:
    """Do 60 random things to ``pair``, which is on ``clock`` and empty, and to a memory ledger."""
    memory = Pair(
        MemoryTransport(f"memory://{namespace}", namespace, clock=clock),
        MemoryResultBackend(f"memory://{namespace}", namespace, clock=clock),
    )
    await memory.open()
    await pair.open()
    twins = Twins(memory, pair, clock, random.Random(seed))
    await twins.put()
    for _ in range(60):
        await twins.step()
    await pair.close()
    await memory.close()
