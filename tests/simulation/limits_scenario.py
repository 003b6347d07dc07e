"""The simulation with limits: jobs wait for turns and slots while workers stall and crash."""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from bananas_core.app import Bananas
from bananas_core.context import current_job
from bananas_core.job import FINAL, Job, JobState
from bananas_core.limits import Ask, Limiter, Quota, Rate, Rule, Slots, Want, text_of
from bananas_core.limits.calendar import window
from bananas_core.pair import Pair
from bananas_core.testing.simulation import (
    SETTLE_WITHIN,
    Run,
    Scenario,
    Violation,
    World,
    insist,
)
from bananas_core.testing.virtual import Process
from bananas_plugins.rate_limit import Limit
from bananas_plugins.rate_limit.plugin import RateLimit

TZ: Final = "Asia/Kathmandu"
"""Its hours change at a quarter past UTC's: 100 virtual seconds after the begin."""
FREE_WITHIN: Final = 10.0
"""Virtual seconds after the end of all jobs within which all slots can be had."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A job to submit."""

    id: str
    task: str
    delay: float
    cancel: bool


class Limits(Scenario):
    """Tasks with a rate, a number of slots, both, a calendar quota, or none."""

    def __init__(self, rng: random.Random) -> None:
        rate = Rate(count=rng.choice([1, 2, 5]), period=1.0, burst=rng.choice([1, 1, 3]))
        slots = Slots(count=rng.randint(1, 3))
        quota = Quota(count=rng.randint(2, 4), unit="hour", tz=TZ)
        self.rules: dict[str, Rule] = {"api": rate, "slots": slots, "hourly": quota}
        self.tasks = {
            "rated": ("api",),
            "slotted": ("slots",),
            "both": ("api", "slots"),
            "counted": ("hourly",),
            "free": (),
        }
        names = rng.choice([["rated"], ["slotted"], ["rated", "slotted", "both", "free"], ["both"]])
        count = rng.randint(4, 14)
        hourly = min(rng.choice([0, 0, 3, 6]), 2 * quota.count)
        wanted = [rng.choice(names) for _ in range(count)] + ["counted"] * hourly
        self.orders = [
            Order(
                id=f"job-{n}",
                task=task,
                delay=rng.choice([0.0, 0.0, 0.0, 2.0]),
                cancel=rng.random() < 0.1,
            )
            for n, task in enumerate(wanted)
        ]
        self.cancelled: set[str] = set()
        self.active: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def add_tasks(self, app: Bananas, world: World) -> None:
        app.plugins.register(RateLimit(world.rng, world.clock))

        def add(name: str, limits: tuple[str, ...]) -> None:
            @app.task(name=name, max_attempts=4, limits=[self._limit(each) for each in limits])
            async def body() -> None:
                job = current_job()
                world.runs.append(Run(id=job.id, attempt=job.attempt, at=world.clock.now()))
                for each in limits:
                    self.active[each] += 1
                    self.most[each] = max(self.most[each], self.active[each])
                try:
                    await asyncio.sleep(world.rng.choice([0.0, 0.2, 1.0, 4.0]))
                finally:
                    for each in limits:
                        self.active[each] -= 1
                if world.rng.random() < 0.05:
                    raise ValueError("planned")

        for name, limits in self.tasks.items():
            add(name, limits)

    def _limit(self, name: str) -> Limit:
        rule = self.rules[name]
        if isinstance(rule, Slots):
            return Limit(concurrency=rule.count, name=name)
        return Limit(text_of(rule), name=name)

    async def produce(self, world: World, process: Process) -> None:
        app = await insist(lambda: world.app(process))
        for order in self.orders:
            job = await insist(
                lambda order=order: app.submit_job(  # type: ignore[misc]
                    order.task, job_id=order.id, delay=order.delay
                )
            )
            await asyncio.sleep(world.rng.choice([0.0, 0.0, 0.1, 1.0]))
            if order.cancel and await insist(job.cancel):
                self.cancelled.add(order.id)

    async def check(self, world: World, pair: Pair) -> None:
        jobs = await self._ended(world, pair)
        for order in self.orders:
            self._check_job(world, order, jobs[order.id])
        starts: dict[str, list[float]] = defaultdict(list)
        tasks = {order.id: order.task for order in self.orders}
        for run in world.runs:
            for limit in self.tasks[tasks[run.id]]:
                starts[limit].append(run.at)
        for name, times in starts.items():
            self._check_limit(name, sorted(times))
        await self._check_slots(world, pair)

    async def _ended(self, world: World, pair: Pair) -> dict[str, Job]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLE_WITHIN
        ids = [order.id for order in self.orders]
        while True:
            found: list[Job | None] = await insist(lambda: pair.backend.get(ids))
            jobs = {job.id: job for job in found if job is not None}
            now = world.clock.now()
            left = [id for id in ids if id not in jobs or not _over(jobs[id], now)]
            if not left:
                return jobs
            if loop.time() > deadline:
                shown = [f"{id}: {jobs.get(id)}" for id in left]
                raise Violation(f"not final {SETTLE_WITHIN} s after the faults: {shown}")
            await asyncio.sleep(1.0)

    def _check_job(self, world: World, order: Order, job: Job) -> None:
        runs = [run for run in world.runs if run.id == order.id]
        text = f"{order} ended as {job} after {runs}"
        if job.state is JobState.CANCELLED and order.id not in self.cancelled and not order.cancel:
            raise Violation(f"nobody cancelled it: {text}")
        if job.state is JobState.COMPLETED and not runs:
            raise Violation(f"completed without a run: {text}")
        quiet = job.state in FINAL and not (world.crashes or world.cuts or order.cancel)
        if quiet and job.state is not JobState.COMPLETED:
            raise Violation(f"no crash, but {text}")

    def _check_limit(self, name: str, times: Sequence[float]) -> None:
        """No window has more starts than its limit says, nor more bodies at once."""
        rule = self.rules[name]
        if isinstance(rule, Rate):
            for begin in times:
                found = bisect_left(times, begin + rule.period) - bisect_left(times, begin)
                if found > rule.count + rule.burst:
                    raise Violation(f"{found} starts within {text_of(rule)}: {times}")
        elif isinstance(rule, Quota):
            for begin, count in Counter(window(rule.unit, rule.tz, at)[0] for at in times).items():
                if count > rule.count:
                    raise Violation(f"{count} starts from {begin}, over {text_of(rule)}: {times}")
        elif self.most[name] > rule.count:
            raise Violation(f"{self.most[name]} bodies at once, over {text_of(rule)}")

    async def _check_slots(self, world: World, pair: Pair) -> None:
        """Once all is over, all slots can be had."""
        rule = self.rules["slots"]
        assert isinstance(rule, Slots)
        client = Limiter(pair.backend, world.clock, world.rng)
        want = Want(name="slots", rule=rule)
        deadline = asyncio.get_running_loop().time() + FREE_WITHIN
        for number in range(rule.count):
            while True:
                until = world.clock.now() + 1000.0
                ask = Ask(id=f"outside-{number}", fence=1, wants=(want,), until=until)
                (answer,) = await insist(lambda ask=ask: client.ask([ask]))  # type: ignore[misc]
                if answer.granted:
                    break
                if asyncio.get_running_loop().time() > deadline:
                    raise Violation(f"only {number} of {rule.count} slots are free")
                await asyncio.sleep(0.5)


def _over(job: Job, now: float) -> bool:
    """It has ended, or its turn is in another hour."""
    if job.state in FINAL:
        return True
    held = job.held
    return held is not None and held.by == "limit:hourly" and held.until > now + SETTLE_WITHIN
