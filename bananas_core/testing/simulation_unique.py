"""The simulation with unique keys: submitters race for few keys, and stall or die at any call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec

from bananas_core.app import Bananas
from bananas_core.context import current_job
from bananas_core.errors import BananasError, DuplicateJob
from bananas_core.job import FINAL, Job, JobState, Query
from bananas_core.pair import Pair
from bananas_core.results import ResultBackend
from bananas_core.testing.simulation import (
    SETTLE_WITHIN,
    Run,
    Scenario,
    Violation,
    World,
    insist,
)
from bananas_core.testing.virtual import Process
from bananas_core.unique import BY, PREFIX
from bananas_core.unique_rule import OnConflict, UniqueKey, UniqueRule, Until

LIVE: Final = (JobState.SCHEDULED, JobState.PENDING, JobState.PROCESSING)
LOOK_EVERY: Final = 0.2
WATCHED: Final = 30.0
"""Virtual seconds after the last submission in which the witness looks on."""
TIDIED_WITHIN: Final = 90.0
"""Virtual seconds within which documents of keys are gone once all jobs have ended."""
FREE_WITHIN: Final = 5.0


class Wish(msgspec.Struct, kw_only=True):
    """One submission: what it asked for, and what it was told. Instants are virtual unix seconds;
    ``end`` None: its submitter never knew."""

    id: str
    number: int
    key: str
    rule: UniqueRule
    begin: float = 0.0
    end: float | None = None
    got: str | None = None


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A body that started, and the arguments that it had."""

    id: str
    key: str
    number: int
    at: float


class UniqueJobs(Scenario):
    """A few keys, each with one rule for all its jobs, and submitters that want them."""

    def __init__(self, rng: random.Random) -> None:
        self.rules = {f"key-{n}": _rule(rng) for n in range(rng.randint(1, 3))}
        self.submitters = rng.randint(1, 3)
        self.wishes: list[Wish] = []
        self.bodies: list[Body] = []
        self._numbers = 0
        self._broken: list[str] = []

    def add_tasks(self, app: Bananas, world: World) -> None:
        @app.task(name="keyed", max_attempts=4)
        async def keyed(key: str, number: int) -> int:
            job = current_job()
            at = world.clock.now()
            world.runs.append(Run(id=job.id, attempt=job.attempt, at=at))
            self.bodies.append(Body(id=job.id, key=key, number=number, at=at))
            await asyncio.sleep(world.rng.choice([0.0, 0.1, 1.0, 6.0]))
            if world.rng.random() < 0.1:
                raise ValueError("planned")
            return number

    async def produce(self, world: World, process: Process) -> None:
        submitters = [Process(f"submitter-{n}") for n in range(self.submitters)]
        world.processes += submitters
        for each in submitters:
            each.hazard = world.rng.choice([0.0, 0.01, 0.03])
        tasks = [each.spawn(self._submit(world, each)) for each in submitters]
        witness = process.spawn(self._watch(world))
        _, stuck = await asyncio.wait(tasks, timeout=SETTLE_WITHIN)
        if stuck:
            self._broken.append(f"{len(stuck)} submitters wait for ever: {self.wishes}")
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self._broken.append(f"a submitter died of {error!r}")
        await asyncio.sleep(WATCHED)
        witness.cancel()
        await asyncio.gather(witness, return_exceptions=True)

    async def check(self, world: World, pair: Pair) -> None:
        if self._broken:
            raise Violation(self._broken[0])
        jobs = await self._settled(pair.backend)
        for wish in self.wishes:
            if wish.got is not None and wish.got not in jobs:
                raise Violation(f"an answer without a record: {wish}")
        for key in self.rules:
            self._check_key(world, key, [job for job in jobs.values() if job.unique == key])
        await self._check_free(world, pair.backend)

    # -- what happens --------------------------------------------------------------------------

    async def _submit(self, world: World, process: Process) -> None:
        """One wish after another, each until its outcome is known, or without caring."""
        app = await insist(lambda: world.app(process))
        for _ in range(world.rng.randint(2, 8)):
            key = world.rng.choice(list(self.rules))
            wish = self._wish(key, world.clock.now())
            while wish.end is None:
                try:
                    wish.got = (await self._ask(app, wish)).id
                except DuplicateJob as error:
                    wish.got = error.job_id
                except BananasError:
                    if world.rng.random() < 0.3:
                        break
                    await asyncio.sleep(0.5)
                    continue
                wish.end = world.clock.now()
            await asyncio.sleep(world.rng.choice([0.0, 0.0, 0.3, 2.0]))

    def _wish(self, key: str, now: float) -> Wish:
        self._numbers += 1
        number = self._numbers
        wish = Wish(id=f"job-{number}", number=number, key=key, rule=self.rules[key], begin=now)
        self.wishes.append(wish)
        return wish

    async def _ask(self, app: Bananas, wish: Wish) -> Any:
        again = wish.rule.on_conflict is OnConflict.RESCHEDULE
        return await app.submit_job(
            "keyed",
            {"key": wish.key, "number": wish.number},
            job_id=wish.id,
            unique=UniqueKey(key=wish.key, rule=wish.rule),
            delay=1.5 if again else 0.0,
        )

    async def _watch(self, world: World) -> None:
        """Look again and again whether two live jobs have one key."""
        backend = world.make_pair(world.clock, random.Random(world.seed)).backend
        await insist(backend.open)
        try:
            while True:
                for key, rule in self.rules.items():
                    if rule.until is Until.FINISHED:
                        self._broken += await _one_live(backend, key)
                await asyncio.sleep(LOOK_EVERY)
        finally:
            await backend.close()

    # -- what must hold ------------------------------------------------------------------------

    async def _settled(self, backend: ResultBackend) -> dict[str, Job]:
        """All records, once everything has ended and the keys are gone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_WITHIN
        while True:
            jobs = await _all_jobs(backend)
            live = [job for job in jobs.values() if job.state not in FINAL]
            if not live:
                break
            if loop.time() > deadline:
                raise Violation(f"not final {SETTLE_WITHIN} s after the faults: {live}")
            await asyncio.sleep(1.0)
        deadline = loop.time() + TIDIED_WITHIN
        while docs := await insist(lambda: backend.docs(PREFIX)):
            if loop.time() > deadline:
                raise Violation(f"keys are left behind: {docs}")
            await asyncio.sleep(1.0)
        return await _all_jobs(backend)

    def _check_key(self, world: World, key: str, jobs: Sequence[Job]) -> None:
        rule = self.rules[key]
        ran = sorted((job for job in jobs if job.attempts), key=_begin_and_end)
        for job in jobs:
            lost = job.cancel is not None and job.cancel.by == BY
            if job.state is JobState.CANCELLED and not lost:
                raise Violation(f"nobody cancelled it: {job}")
            if lost and job.attempts:
                raise Violation(f"it ran without its key: {job}")
        for body in self.bodies:
            if body.key == key and not any(body.id == job.id for job in ran):
                raise Violation(f"a body ran for another key, or for no record: {body}")
        if rule.until is Until.FINISHED:
            for job, after in pairwise(ran):
                assert job.finished_at is not None
                if after.attempts[0].claimed_at < job.finished_at:
                    raise Violation(f"two live jobs of one key: {job} and {after}")
        if rule.until is Until.PERIOD:
            assert rule.period is not None
            begun = {wish.id: wish.begin for wish in self.wishes}
            for job, after in pairwise(sorted(ran, key=lambda job: job.created_at)):
                if after.created_at < begun[job.id] + rule.period:
                    raise Violation(f"{job} and {after} within {rule.period} s")
        if rule.on_conflict is OnConflict.KEEP_LAST:
            self._check_newest(key, jobs)

    def _check_newest(self, key: str, jobs: Sequence[Job]) -> None:
        """Whatever was accepted, a body began afterwards that had these arguments or newer ones."""
        if any(job.state is JobState.QUARANTINED for job in jobs):
            return
        mine = {wish.number: wish for wish in self.wishes if wish.key == key}
        bodies = [body for body in self.bodies if body.key == key]
        for wish in mine.values():
            if wish.end is None:
                continue
            newer = {w.number for w in mine.values() if w.end is None or w.end >= wish.begin}
            if not any(b.number in newer and b.at >= wish.begin for b in bodies):
                raise Violation(f"no body had the arguments of {wish}, or newer: {bodies} {jobs}")

    async def _check_free(self, world: World, backend: ResultBackend) -> None:
        """Each key goes to a new job at once, and that one ends and leaves nothing either."""
        process = Process("last")
        world.processes.append(process)
        app = await insist(lambda: world.app(process))
        for key in self.rules:
            wish = self._wish(key, world.clock.now())
            got = (await insist(lambda wish=wish: self._ask(app, wish))).id  # type: ignore[misc]
            if got != wish.id:
                raise Violation(f"{key} was not free: {got} is the answer to {wish}")
            if (took := world.clock.now() - wish.begin) > FREE_WITHIN:
                raise Violation(f"{key} was free after {took:.1f} s only")
        await self._settled(backend)


async def _one_live(backend: ResultBackend, key: str) -> list[str]:
    """What is wrong. A listing may show one job before its end and the next after its start; two
    that are still live when looked at again were live together."""
    page = await insist(lambda: backend.query(Query(unique=key, states=LIVE)))
    if len(page.jobs) < 2:
        return []
    found = await insist(lambda: backend.get([job.id for job in page.jobs]))
    both = [job for job in found if job is not None and job.state in LIVE]
    return [f"{len(both)} live jobs have the key {key}: {both}"] if len(both) > 1 else []


async def _all_jobs(backend: ResultBackend) -> dict[str, Job]:
    page = await insist(lambda: backend.query(Query(name="keyed", limit=1000)))
    return {job.id: job for job in page.jobs}


def _rule(rng: random.Random) -> UniqueRule:
    policy = rng.choice(list(OnConflict))
    if policy is OnConflict.KEEP_LAST:
        return UniqueRule(on_conflict=policy)
    if policy is OnConflict.RESCHEDULE:
        return UniqueRule(on_conflict=policy, until=Until.STARTED, max_wait=rng.choice([None, 4.0]))
    until = rng.choice([Until.FINISHED, Until.FINISHED, Until.STARTED, Until.PERIOD])
    period = 20.0 if until is Until.PERIOD else None
    return UniqueRule(on_conflict=policy, until=until, period=period)


def _begin_and_end(job: Job) -> tuple[float, float]:
    return job.attempts[0].claimed_at, job.finished_at or 0.0
